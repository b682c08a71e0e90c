"""Translation of DeepSeek's checkpoint layout to transformers': configuration and tensor names."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

from model.architecture import build_config
from model.errors import CheckpointError

Json = Mapping[str, Any]

_SIGLIP_LARGE = {"image_size": 384, "patch_size": 16, "width": 1024, "layers": 24, "heads": 16, "mlp_ratio": 4}
_VQ_16: dict[str, Any] = {"ch": 128, "z_channels": 256, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2}
_LLAMA_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling",
    "attention_bias", "mlp_bias", "hidden_act", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
_DROPPED = ("vision_model.vision_tower.attn_pool.", "gen_vision_model.quantize.codebook_used")

# The first pattern that matches wins; the right side is a template for re.Match.expand.
_RENAMES = [
    (re.compile(pattern), target)
    for pattern, target in (
        (r"language_model\.model\.(.+)", r"model.language_model.\1"),
        (r"language_model\.lm_head\.(.+)", r"lm_head.\1"),
        (r"gen_embed\.(.+)", r"model.generation_embeddings.\1"),
        (r"gen_head\.output_mlp_projector\.(.+)", r"model.generation_head.proj_out.\1"),
        (r"gen_head\.vision_head\.(.+)", r"model.generation_head.vision_head.\1"),
        (r"gen_vision_model\.(encoder|decoder)\.mid\.0\.(.+)", r"model.vqmodel.\1.mid.block_1.\2"),
        (r"gen_vision_model\.(encoder|decoder)\.mid\.1\.(.+)", r"model.vqmodel.\1.mid.attn_1.\2"),
        (r"gen_vision_model\.(encoder|decoder)\.mid\.2\.(.+)", r"model.vqmodel.\1.mid.block_2.\2"),
        (r"gen_vision_model\.encoder\.conv_blocks\.(\d+)\.res\.(.+)", r"model.vqmodel.encoder.down.\1.block.\2"),
        (r"gen_vision_model\.encoder\.conv_blocks\.(.+)", r"model.vqmodel.encoder.down.\1"),
        (r"gen_vision_model\.decoder\.conv_blocks\.(\d+)\.res\.(.+)", r"model.vqmodel.decoder.up.\1.block.\2"),
        (r"gen_vision_model\.decoder\.conv_blocks\.(.+)", r"model.vqmodel.decoder.up.\1"),
        (r"gen_vision_model\.(.+)", r"model.vqmodel.\1"),
        (r"vision_model\.vision_tower\.pos_embed", r"model.vision_model.embeddings.position_embedding.weight"),
        (r"vision_model\.vision_tower\.patch_embed\.proj\.(.+)", r"model.vision_model.embeddings.patch_embedding.\1"),
        (r"vision_model\.vision_tower\.norm\.(.+)", r"model.vision_model.post_layernorm.\1"),
        (
            r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.proj\.(.+)",
            r"model.vision_model.encoder.layers.\1.self_attn.projection_layer.\2",
        ),
        (
            r"vision_model\.vision_tower\.blocks\.(\d+)\.norm(\d)\.(.+)",
            r"model.vision_model.encoder.layers.\1.layer_norm\2.\3",
        ),
        (r"vision_model\.vision_tower\.blocks\.(.+)", r"model.vision_model.encoder.layers.\1"),
    )
]
_FUSED_QKV = re.compile(r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.qkv\.(.+)")
_ALIGNER = re.compile(r"(gen_)?aligner\.layers\.(\d+)\.(.+)")


def is_deepseek(config: Json) -> bool:
    """Whether a config.json has DeepSeek's layout."""
    return config.get("model_type") == "multi_modality"


def convert_config(config: Json, *, file: str) -> JanusConfig:
    """Convert a DeepSeek config.json to transformers' configuration.

    Values that the file implies by class names (VQ-16, SigLIP-L) or leaves to Llama's defaults are filled in.

    Args:
        config: content of the file.
        file: its path, for messages.

    Raises:
        CheckpointError: a sub-config or a value is missing, or widths differ that must be equal.
    """

    def params(name: str) -> Json:
        part = config.get(name)
        if not isinstance(part, Mapping):
            raise CheckpointError(f"{file}: {name} is missing")
        found = part.get("params", {})
        return found if isinstance(found, Mapping) else {}

    def needed(name: str, key: str) -> Any:
        if key not in params(name):
            raise CheckpointError(f"{file}: {name}.params.{key} is missing")
        return params(name)[key]

    language = config.get("language_config")
    if not isinstance(language, Mapping):
        raise CheckpointError(f"{file}: language_config is missing")
    text = LlamaConfig(**{key: language[key] for key in _LLAMA_KEYS if key in language})
    vision = _SIGLIP_LARGE | {k: v for k, v in params("vision_config").items() if k in _SIGLIP_LARGE}
    vq = _VQ_16 | {k: v for k, v in params("gen_vision_config").items() if k in _VQ_16}
    vision_config = JanusVisionConfig(
        hidden_size=vision["width"],
        num_hidden_layers=vision["layers"],
        num_attention_heads=vision["heads"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        mlp_ratio=vision["mlp_ratio"],
        projection_dim=needed("aligner_config", "n_embed"),
        depth=params("aligner_config").get("depth", 1),
        num_image_tokens=(vision["image_size"] // vision["patch_size"]) ** 2,
    )
    vq_config = JanusVQVAEConfig(
        embed_dim=needed("gen_vision_config", "n_embed"),
        num_embeddings=needed("gen_vision_config", "image_token_size"),
        base_channels=vq["ch"],
        latent_channels=vq["z_channels"],
        channel_multiplier=list(vq["ch_mult"]),
        num_res_blocks=vq["num_res_blocks"],
        projection_dim=needed("gen_aligner_config", "n_embed"),
        num_hidden_layers=params("gen_aligner_config").get("depth", 1),
        image_token_embed_dim=needed("gen_head_config", "n_embed"),
    )
    _check_widths(text, vq_config, inner=needed("gen_head_config", "image_token_embed"), file=file)
    return build_config(text, vision_config, vq_config)


def _check_widths(text: LlamaConfig, vq: JanusVQVAEConfig, *, inner: int, file: str) -> None:
    """Refuse unequal widths: transformers has one width for the code aligner and inside the image head."""
    widths = {
        "language_config.hidden_size": text.hidden_size,
        "gen_aligner_config.params.n_embed": vq.projection_dim,
        "gen_head_config.params.n_embed": vq.image_token_embed_dim,
        "gen_head_config.params.image_token_embed": inner,
    }
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise CheckpointError(f"{file}: these widths must be equal: {told}")


def convert_tensors(tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Convert a DeepSeek state dict to transformers' names; other names stay as they are.

    The fused q, k, v of the vision tower are split; its pooling head is dropped. Codebook rows are scaled to unit
    length: decoding normalises them anyway, but transformers' own encode does not, and finds the original's codes
    only with unit rows.

    Args:
        tensors: in DeepSeek's or transformers' layout.
        source: file or folder, for messages.

    Raises:
        CheckpointError: a fused tensor cannot be split into three.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_DROPPED):
            continue
        if fused := _FUSED_QKV.fullmatch(name):
            layer, kind = fused.groups()
            if tensor.ndim == 0 or len(tensor) % 3:
                raise CheckpointError(f"{source}: tensor {name} has shape {list(tensor.shape)}, not three parts")
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                converted[f"model.vision_model.encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] = (
                    piece.contiguous()
                )
        elif aligner := _ALIGNER.fullmatch(name):
            prefix = "model.generation_aligner" if aligner.group(1) else "model.aligner"
            index = int(aligner.group(2))
            inner = "fc1" if index == 0 else f"hidden_layers.{index // 2 - 1}"
            converted[f"{prefix}.{inner}.{aligner.group(3)}"] = tensor
        else:
            target = _rename(name)
            if target.endswith("position_embedding.weight") and tensor.ndim == 3:
                tensor = tensor[0]
            if name == "gen_vision_model.quantize.embedding.weight":
                tensor = (tensor.float() / tensor.float().norm(dim=-1, keepdim=True)).to(tensor.dtype)
            converted[target] = tensor
    return converted


def _rename(name: str) -> str:
    for pattern, target in _RENAMES:
        if found := pattern.fullmatch(name):
            return found.expand(target)
    return name
