"""Models of a published geometry with random weights: speed does not depend on their values."""

from dataclasses import dataclass

import torch
from transformers import JanusConfig, JanusForConditionalGeneration, JanusVQVAEConfig, LlamaConfig

from model.architecture import build_config, smallest_vision
from model.image_tokenizer import use_fast_memory_format
from model.janus import Janus
from model.params import SamplingParams
from model.prompt import SpecialIds


@dataclass(frozen=True)
class Geometry:
    """Geometry of a decoder. The image tokenizer is Janus-Pro's: 384 pixels, 24 × 24 codes, codebook of 16,384."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int


GEOMETRIES = {
    "janus-pro-7b": Geometry(30, 4096, 32, 11008, 102400),
    "janus-pro-1b": Geometry(24, 2048, 16, 5632, 102400),
    "12x768": Geometry(12, 768, 12, 2048, 4096),
}


def geometry_config(name: str) -> JanusConfig:
    """Configuration of a geometry, with the smallest understanding tower.

    Raises:
        ValueError: no such geometry.
    """
    if name not in GEOMETRIES:
        raise ValueError(f"no geometry {name!r}; known: {', '.join(GEOMETRIES)}")
    geometry = GEOMETRIES[name]
    text = LlamaConfig(
        vocab_size=geometry.vocabulary,
        hidden_size=geometry.hidden,
        intermediate_size=geometry.intermediate,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    vision = smallest_vision(image_size=384, patch_size=16, projection_dim=geometry.hidden)  # not timed
    vq = JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=16384,
        latent_channels=256,
        base_channels=128,
        channel_multiplier=[1, 1, 2, 2, 4],
        num_res_blocks=2,
        projection_dim=geometry.hidden,
        image_token_embed_dim=geometry.hidden,
    )
    return build_config(text, vision, vq)


def random_janus(
    name: str, device: torch.device, dtype: torch.dtype, *, seed: int = 0, layers: int | None = None
) -> Janus:
    """Build a model with random weights on a device. It has no tokenizer: prompts are token ids.

    Args:
        name: of a geometry.
        device: holds the model.
        dtype: of its weights.
        seed: of the weights.
        layers: of the decoder; as many as the geometry has if not given.

    Raises:
        ValueError: no such geometry, or no layers.
    """
    config = geometry_config(name)
    if layers is not None:
        if layers < 1:
            raise ValueError(f"layers must be at least 1, not {layers}")
        config.text_config.num_hidden_layers = layers
    config.dtype = dtype
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with device:
            network = JanusForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    use_fast_memory_format(network.model.vqmodel, device)
    network.generation_config.generation_kwargs = {"boi_token_id": 2}
    return Janus(name, network, None, SpecialIds(bos=1, pad=0, begin_of_image=2), SamplingParams())
