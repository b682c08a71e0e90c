"""The shipped checkpoints from nothing: pictures, text tokenizer, image tokenizer, SFT, export.

world → crowded pictures → vq ─┐
  └──→ captioned pictures ─────┴→ codes ─┐
            └──→ captions → tokenizer ───┴→ sft → tiny, tiny-base
"""

import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from model.checkpoint import load, save
from model.janus import Janus
from model.params import SamplingParams
from model.prompt import IMAGE_PLACEHOLDER, special_ids
from pairs.files import write_atomically
from pairs.world import World
from train.data import CrowdedPictures, SceneSource, render_images
from train.recipe import Recipe, claim
from train.sft import Batches, SFTSettings, train_sft
from train.tokenizer import train_text_tokenizer
from train.vq_trainer import VQSettings, encode_images, train_tokenizer

_CAPTIONS_FOR_TOKENIZER = 8192
_VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2.0}


def train_tiny(recipe: Recipe, out: Path, device: torch.device) -> dict[str, Path]:
    """Make `tiny` and `tiny-base` under `out`; a killed call goes on where it stopped.

    Returns:
        The finished checkpoint folders by name.

    Raises:
        RecipeError: `out` holds a run of another recipe.
    """
    claim(out, recipe)
    finished = {"tiny-base": out / "tiny-base", "tiny": out / "tiny"}
    if all(folder.exists() for folder in finished.values()):
        return finished
    started = time.monotonic()
    source = SceneSource(World(recipe.held_out), recipe.seed, recipe.image_size, recipe.category_weights)
    tokenizer = _text_tokenizer(source, recipe, out / "tokenizer")
    codes = _image_tokenizer(source, recipe, out, device)
    network = build_network(recipe, tokenizer)
    network.model.vqmodel.load_state_dict(load_file(out / "vq" / "final.safetensors"))
    start_decoder(network)
    settings = SFTSettings(**recipe.sft.model_dump(), seed=recipe.seed)
    network.to(device)
    train_sft(network, Batches(source, codes, tokenizer, settings), out / "sft", settings)
    for name, weights in (("tiny-base", "base"), ("tiny", "final")):
        if not finished[name].exists():
            network.load_state_dict(load_file(out / "sft" / f"{weights}.safetensors"), strict=False)
            export(network, tokenizer, recipe.sampling.params, finished[name])
    print(f"finished; this call took {(time.monotonic() - started) / 60:.1f} minutes")
    return finished


def export(
    network: JanusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, sampling: SamplingParams, folder: Path
) -> None:
    """Write a checkpoint with its weights in bfloat16, and load it back once as proof."""
    network = network.to(torch.bfloat16).eval()
    save(Janus(folder.name, network, tokenizer, special_ids(tokenizer), sampling), folder)
    network.float()
    load(folder, device="cpu")


def _text_tokenizer(source: SceneSource, recipe: Recipe, folder: Path) -> PreTrainedTokenizerFast:
    captions = (source.caption(index, 0) for index in range(_CAPTIONS_FOR_TOKENIZER))
    tokenizer = train_text_tokenizer(captions, recipe.language.vocab_size)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _image_tokenizer(source: SceneSource, recipe: Recipe, out: Path, device: torch.device) -> Tensor:
    """Train the image tokenizer, and the codes of all pictures: [images, tokens], on the CPU."""
    vq_file, codes_file = out / "vq" / "final.safetensors", out / "codes.safetensors"
    if codes_file.exists():
        kept: Tensor = load_file(codes_file)["codes"]
        return kept
    torch.manual_seed(recipe.seed)
    vq = JanusForConditionalGeneration(_config(recipe, None)).model.vqmodel.to(device)
    if vq_file.exists():
        vq.load_state_dict(load_file(vq_file))
    else:
        crowded = CrowdedPictures(recipe.seed, recipe.image_size)
        pictures = render_images(crowded, recipe.vq_training.images, out / "vq" / "images")
        settings = VQSettings(**recipe.vq_training.model_dump(exclude={"images"}), seed=recipe.seed)
        train_tokenizer(vq, pictures, out / "vq", settings)
        write_atomically(vq_file, lambda path: path.write_bytes(save_tensors(vq.state_dict())))
    codes = encode_images(vq, render_images(source, recipe.data.images, out / "images"))
    write_atomically(codes_file, lambda path: path.write_bytes(save_tensors({"codes": codes})))
    return codes


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast | None) -> JanusConfig:
    width = recipe.language.hidden_size
    ids = special_ids(tokenizer) if tokenizer else None
    text = LlamaConfig(
        **recipe.language.model_dump(exclude={"rope_theta"}),
        rope_parameters={"rope_type": "default", "rope_theta": recipe.language.rope_theta},
        pad_token_id=ids.pad if ids else None,
        bos_token_id=ids.bos if ids else None,
        eos_token_id=tokenizer.eos_token_id if tokenizer else None,
        tie_word_embeddings=False,
    )
    patch = recipe.image_size // recipe.grid
    vision = JanusVisionConfig(
        **_VISION, image_size=recipe.image_size, patch_size=patch, projection_dim=width, num_image_tokens=recipe.grid**2
    )
    vq = JanusVQVAEConfig(**recipe.vq.model_dump(), projection_dim=width, image_token_embed_dim=width)
    image_token = tokenizer.get_vocab()[IMAGE_PLACEHOLDER] if tokenizer else 0
    return JanusConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        vq_config=vq.to_dict(),
        image_token_id=image_token,
        tie_word_embeddings=False,
    )


def build_network(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> JanusForConditionalGeneration:
    """An untrained network of a recipe's geometry; the recipe's seed decides its start."""
    torch.manual_seed(recipe.seed)
    return JanusForConditionalGeneration(_config(recipe, tokenizer))


@torch.no_grad()
def start_decoder(network: JanusForConditionalGeneration) -> None:
    """First values of everything that SFT trains, for a decoder as narrow as this one.

    transformers starts every matrix from N(0, 0.02), which suits a width of thousands: at 192 the
    signal dies on its way, and the loss after 640 steps is 4.1 where this start reaches 2.5
    (docs/tiny.md). Here linear layers start as PyTorch's own do, each block adds nothing at first,
    and codes that look alike start with like inputs: their embedding begins as the codebook.
    """
    parts = (network.model.language_model, network.model.generation_aligner, network.model.generation_head)
    for part in parts:
        for name, module in part.named_modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if name.endswith(("o_proj", "down_proj")):
                    nn.init.zeros_(module.weight)
    for module in network.model.generation_aligner.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    nn.init.normal_(network.model.language_model.embed_tokens.weight, std=0.5)
    network.model.generation_embeddings.weight.copy_(network.model.vqmodel.quantize.embedding.weight)
