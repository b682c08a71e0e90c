"""The whole pipeline: pictures, text tokenizer, image tokenizer, SFT, export.

world → crowded pictures → vq ─┐
  └──→ captioned pictures ─────┴→ codes ─┐
            └──→ captions → tokenizer ───┴→ sft → tiny, tiny-base
"""

import time
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
from model.params import SamplingParams
from model.prompt import special_ids
from pairs.files import write_atomically
from pairs.world import World
from train.data.crowded import CrowdedPictures
from train.data.scenes import SceneSource
from train.data.shards import render_images
from train.recipe import claim_folder
from train.sft.rows import SceneRows
from train.tiny.decoder import train_decoder
from train.tiny.image_tokenizer import encode_images, train_image_tokenizer
from train.tiny.network import build_network, initialise_decoder, recipe_config
from train.tiny.recipe import TinyRecipe
from train.tiny.text_tokenizer import train_text_tokenizer

_CAPTIONS_FOR_TOKENIZER = 8192


def train_tiny(recipe: TinyRecipe, out: Path, device: torch.device) -> dict[str, Path]:
    """Train `tiny` and `tiny-base` under `out`, resuming after a kill.

    Returns:
        The finished checkpoint folders by name.

    Raises:
        RecipeError: `out` holds a run of another recipe.
    """
    claim_folder(out, recipe)
    finished = {"tiny-base": out / "tiny-base", "tiny": out / "tiny"}
    if all(folder.exists() for folder in finished.values()):
        return finished
    started = time.monotonic()
    source = SceneSource(World(recipe.held_out), recipe.seed, recipe.image_size, recipe.category_weights)
    tokenizer = _text_tokenizer(source, recipe, out / "tokenizer")
    codes = _image_tokenizer(source, recipe, out, device)
    network = build_network(recipe, tokenizer)
    network.model.vqmodel.load_state_dict(load_file(out / "vq" / "final.safetensors"))
    initialise_decoder(network)
    network.to(device)
    sft = recipe.sft.model_copy(update={"seed": recipe.seed})
    train_decoder(network, tokenizer, SceneRows(source, codes), out / "sft", sft, base_at=recipe.base_at)
    for name, weights in (("tiny-base", "base"), ("tiny", "final")):
        if not finished[name].exists():
            network.load_state_dict(load_file(out / "sft" / f"{weights}.safetensors"), strict=False)
            export(network, tokenizer, recipe.sampling.params, finished[name])
    print(f"finished; this call took {(time.monotonic() - started) / 60:.1f} minutes")
    return finished


def export(
    network: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, sampling: SamplingParams, folder: Path
) -> None:
    """Write a checkpoint with weights in bfloat16, and load it once as a check."""
    network = network.to(torch.bfloat16).eval()
    save(Janus(folder.name, network, tokenizer, special_ids(tokenizer.backend_tokenizer), sampling), folder)
    network.float()
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
