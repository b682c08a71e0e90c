"""Configurations of Janus models, built from their three parts."""

import torch
from transformers import JanusConfig, JanusForConditionalGeneration, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig


def build_config(text: LlamaConfig, vision: JanusVisionConfig, vq: JanusVQVAEConfig) -> JanusConfig:
    """Combine decoder, understanding tower and image tokenizer; input and output embeddings are untied."""
    return JanusConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        vq_config=vq.to_dict(),
        tie_word_embeddings=False,
    )


def smallest_vision(*, image_size: int, patch_size: int, projection_dim: int) -> JanusVisionConfig:
    """Smallest understanding tower, for models that only draw: transformers requires one."""
    return JanusVisionConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=2.0,
        image_size=image_size,
        patch_size=patch_size,
        projection_dim=projection_dim,
        num_image_tokens=(image_size // patch_size) ** 2,
    )


def parameter_shapes(config: JanusConfig) -> dict[str, torch.Size]:
    """Names and shapes of all tensors of a network with this configuration, without allocating them."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in JanusForConditionalGeneration(config).state_dict().items()}
