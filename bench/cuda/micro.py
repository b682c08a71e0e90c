"""A model small enough for Triton's interpreter, which takes milliseconds for each program of a kernel."""

import torch
from transformers import JanusForConditionalGeneration, JanusVQVAEConfig, LlamaConfig

from model.architecture import build_config, smallest_vision
from model.janus import Janus
from model.prompt import SpecialIds

CODES = 70  # of the codebook: no power of two
TOKENS = 9  # codes of a picture


def micro_janus(*, seed: int = 0) -> Janus:
    """Two layers of width 32, grouped heads of width 12, nine codes a picture; weights that spread the logits."""
    text = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=50,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    vq = JanusVQVAEConfig(
        embed_dim=4,
        num_embeddings=CODES,
        latent_channels=32,
        base_channels=32,
        channel_multiplier=[1, 1],
        num_res_blocks=1,
        num_patches=int(TOKENS**0.5),
        projection_dim=32,
        image_token_embed_dim=32,
    )
    torch.manual_seed(seed)
    config = build_config(text, smallest_vision(image_size=6, patch_size=2, projection_dim=32), vq)
    network = JanusForConditionalGeneration(config).eval().requires_grad_(False)
    for parameter in network.model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(std=parameter.shape[1] ** -0.5)
    network.model.generation_head.vision_head.weight.mul_(3)
    network.generation_config.generation_kwargs = {"boi_token_id": 2}
    return Janus("micro", network, None, SpecialIds(bos=1, pad=0, begin_of_image=2))
