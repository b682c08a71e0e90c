"""The whole pipeline: pictures, text tokenizer, image tokenizer, SFT, GRPO, export.

world → crowded pictures → vq ─┐
  └──→ captioned pictures ─────┴→ codes ─┐
            └──→ captions → tokenizer ───┴→ sft → tiny-base, tiny-sft
                                                                └──→ grpo → tiny
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor
from transformers import (
    JanusForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from model.checkpoints.load import load
from model.checkpoints.save import save
from model.janus import Janus
from model.prompt import special_ids
from pairs.files import write_atomically
from pairs.judges.settings import JudgeSettings
from pairs.world import World
from train.data.crowded import CrowdedPictures
from train.data.opening import DataSettings
from train.data.scenes import SceneSource
from train.data.shards import render_images
from train.grpo.run import train as train_grpo
from train.ranks import ALONE
from train.recipe import claim_folder
from train.sft.rows import SceneRows
from train.tiny.decoder import train_decoder
from train.tiny.image_tokenizer import encode_images, train_image_tokenizer
from train.tiny.network import build_network, initialise_decoder, recipe_config
from train.tiny.recipe import TinyRecipe
from train.tiny.text_tokenizer import train_text_tokenizer

_CAPTIONS_FOR_TOKENIZER = 8192
_SLOTS = 64  # pictures drawn at once


def train_tiny(recipe: TinyRecipe, out: Path, device: torch.device) -> dict[str, Path]:
    """Train `tiny-base`, `tiny-sft` and `tiny` under `out`, resuming after a kill.

    Returns:
        The finished checkpoint folders by name.

    Raises:
        RecipeError: `out` holds a run of another recipe.
    """
    claim_folder(out, recipe)
    finished = {name: out / name for name in ("tiny-base", "tiny-sft", "tiny")}
    started = time.monotonic()
    if not (finished["tiny-base"].exists() and finished["tiny-sft"].exists()):
        _supervised(recipe, out, finished, device)
    if not finished["tiny"].exists():
        _reinforced(recipe, out, finished, device)
    print(f"finished; this call took {(time.monotonic() - started) / 60:.1f} minutes")
    return finished


def _supervised(recipe: TinyRecipe, out: Path, finished: Mapping[str, Path], device: torch.device) -> None:
    source = SceneSource(World(recipe.held_out), recipe.seed, recipe.image_size, recipe.category_weights)
    tokenizer = _text_tokenizer(source, recipe, out / "tokenizer")
    codes = _image_tokenizer(source, recipe, out, device)
    network = build_network(recipe, tokenizer)
    network.model.vqmodel.load_state_dict(load_file(out / "vq" / "final.safetensors"))
    initialise_decoder(network)
    network.to(device)
    sft = recipe.sft.model_copy(update={"seed": recipe.seed})
    train_decoder(network, tokenizer, SceneRows(source, codes), out / "sft", sft, base_at=recipe.base_at)
    ids, sampling = special_ids(tokenizer.backend_tokenizer), recipe.sampling.params
    for name, weights in (("tiny-base", "base"), ("tiny-sft", "final")):
        if not finished[name].exists():
            network.load_state_dict(load_file(out / "sft" / f"{weights}.safetensors"), strict=False)
            export(Janus(name, network, tokenizer, ids, sampling), finished[name])


def _reinforced(recipe: TinyRecipe, out: Path, finished: Mapping[str, Path], device: torch.device) -> None:
    policy = load(finished["tiny-sft"], device=str(device), dtype="float32")
    grpo = recipe.grpo.model_copy(update={"seed": recipe.seed})
    data, judge = DataSettings("world", held_out=recipe.held_out), JudgeSettings()
    train_grpo(policy, grpo, out / "grpo", data=data, judge=judge, slots=_SLOTS, ranks=ALONE)
    export(load(out / "grpo" / "latest", device="cpu", dtype="float32"), finished["tiny"])


def export(janus: Janus, folder: Path) -> None:
    """Write a checkpoint with weights in bfloat16, and load it once as a check."""
    save(replace(janus, network=janus.network.to(torch.bfloat16).eval()), folder)
    janus.network.float()
    load(folder, device="cpu")


def _text_tokenizer(source: SceneSource, recipe: TinyRecipe, folder: Path) -> PreTrainedTokenizerFast:
    captions = (source.caption(index, 0) for index in range(_CAPTIONS_FOR_TOKENIZER))
    tokenizer = train_text_tokenizer(captions, recipe.language.vocab_size)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _image_tokenizer(source: SceneSource, recipe: TinyRecipe, out: Path, device: torch.device) -> Tensor:
    """Train the image tokenizer and encode all pictures with it: codes [images, tokens] on the CPU."""
    vq_file, codes_file = out / "vq" / "final.safetensors", out / "codes.safetensors"
    if codes_file.exists():
        kept: Tensor = load_file(codes_file)["codes"]
        return kept
    torch.manual_seed(recipe.seed)
    vq = JanusForConditionalGeneration(recipe_config(recipe, None)).model.vqmodel.to(device)
    if vq_file.exists():
        vq.load_state_dict(load_file(vq_file))
    else:
        crowded = CrowdedPictures(recipe.seed, recipe.image_size)
        pictures = render_images(crowded, recipe.vq_training.images, out / "vq" / "images")
        train_image_tokenizer(vq, pictures, out / "vq", recipe.vq_training, seed=recipe.seed)
        write_atomically(vq_file, lambda path: path.write_bytes(save_tensors(vq.state_dict())))
    codes = encode_images(vq, render_images(source, recipe.data.images, out / "images"))
    write_atomically(codes_file, lambda path: path.write_bytes(save_tensors({"codes": codes})))
    return codes
