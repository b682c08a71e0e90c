"""The decoder as it is served: weights read once into fused form, prefill of prompts, one step for many rows.

`model.generate` says what is computed; this says it in few and large operations, over a cache that
is allocated once. Every row stands at a position of its own, so images may join and leave at any step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import JanusForConditionalGeneration, LlamaConfig

from model.attention import Rows, attend
from model.errors import CheckpointError
from model.janus import Janus
from model.kv_cache import KVCache, Prefix


@dataclass(frozen=True)
class LayerWeights:
    """One block. Queries and keys are stored with the two halves of every head interleaved (see `rotate`)."""

    attention_norm: Tensor  # [hidden]
    qkv: Tensor  # [(heads + 2 · kv_heads) · head_dim, hidden]
    out: Tensor  # [hidden, heads · head_dim]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 · intermediate, hidden]
    down: Tensor  # [hidden, intermediate]


@dataclass(frozen=True)
class DecoderWeights:
    """Everything a step reads; `inputs` [V, hidden] is what each image code becomes for the decoder."""

    layers: tuple[LayerWeights, ...]
    norm: Tensor
    words: Tensor  # [vocabulary, hidden]
    inputs: Tensor
    head_in: Tensor
    head_in_bias: Tensor
    head_out: Tensor
    head_out_bias: Tensor

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor, in an order of their own."""
        for layer in self.layers:
            yield from (getattr(layer, field.name) for field in fields(layer))
        yield from (getattr(self, field.name) for field in fields(self) if field.name != "layers")


class Decoder:
    """Prefill and step of one model.

    Args:
        janus: whose weights are copied.

    Raises:
        CheckpointError: the language model has a part that this decoder does not know.
    """

    def __init__(self, janus: Janus) -> None:
        config = janus.network.config.text_config
        _check(config)
        self.device, self.dtype = janus.device, janus.dtype
        self.image_tokens = janus.image_tokens
        self._config = config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        self._activation = janus.network.model.generation_head.activation_fn
        self._weights = read_weights(janus.network)
        self._turns = self._rotations(janus.network)

    @property
    def max_length(self) -> int:
        """The most tokens of a row: what the model's positions allow."""
        return cast(int, self._config.max_position_embeddings)

    def load_weights(self, network: JanusForConditionalGeneration) -> None:
        """Take other weights of the same shapes, in place: what was captured or compiled stays valid."""
        for mine, other in zip(self._weights.tensors(), read_weights(network).tensors(), strict=True):
            mine.copy_(other)

    def cache(self, rows: int, length: int) -> KVCache:
        """A cache of so many rows of so many tokens."""
        return KVCache(
            layers=len(self._weights.layers),
            rows=rows,
            kv_heads=self._kv_heads,
            length=length,
            head_dim=self._head_dim,
            device=self.device,
            dtype=self.dtype,
        )

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[list[int]]) -> list[Prefix]:
        """Read prompts of any lengths together.

        They are padded behind: no real token sees what comes after it.
        """
        longest = max(map(len, prompts))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in prompts], device=self.device)
        turns = self._turns[:longest]
        x = F.embedding(ids, self._weights.words)
        keys, values = [], []
        for layer in self._weights.layers:
            q, k, v = (part.transpose(1, 2) for part in self._project(x, layer, turns[:, None]))
            keys.append(k)
            values.append(v)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self._grouped)
            x = self._finish(x, attended.transpose(1, 2).flatten(2), layer)
        lengths = torch.tensor([len(row) for row in prompts], device=self.device)
        logits = self._head(x[torch.arange(len(prompts), device=self.device), lengths - 1])
        all_keys, all_values = torch.stack(keys), torch.stack(values)
        return [
            Prefix(all_keys[:, i, :, : len(row)].clone(), all_values[:, i, :, : len(row)].clone(), logits[i].clone())
            for i, row in enumerate(prompts)
        ]

    @torch.inference_mode()
    def step(self, codes: Tensor, rows: Rows, cache: KVCache) -> Tensor:
        """Feed one image code to each row.

        Args:
            codes: int64 [R].
            rows: which rows of the cache, and where in them.
            cache: its rows gain one token.

        Returns:
            Logits of the next code, float32 [R, V].
        """
        x = F.embedding(codes, self._weights.inputs)
        turns = self._turns[rows.positions][:, None]
        for number, layer in enumerate(self._weights.layers):
            q, k, v = self._project(x, layer, turns)
            keys, values = cache.keys[number], cache.values[number]
            keys[rows.index, :, rows.positions] = k
            values[rows.index, :, rows.positions] = v
            x = self._finish(x, attend(q, keys, values, rows), layer)
        return self._head(x)

    @property
    def _grouped(self) -> bool:
        return self._heads != self._kv_heads

    def _project(self, x: Tensor, layer: LayerWeights, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turned queries and keys, and values: each [..., heads, head_dim]."""
        normed = F.rms_norm(x, x.shape[-1:], layer.attention_norm, self._config.rms_norm_eps)
        heads = F.linear(normed, layer.qkv).unflatten(-1, (-1, self._head_dim))
        turned = rotate(heads[..., : self._heads + self._kv_heads, :], turns)
        return (
            turned[..., : self._heads, :],
            turned[..., self._heads :, :],
            heads[..., self._heads + self._kv_heads :, :],
        )

    def _finish(self, x: Tensor, attended: Tensor, layer: LayerWeights) -> Tensor:
        """The rest of a block after attention [..., heads · head_dim]."""
        x = x + F.linear(attended, layer.out)
        normed = F.rms_norm(x, x.shape[-1:], layer.mlp_norm, self._config.rms_norm_eps)
        gate, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, layer.down)

    def _head(self, x: Tensor) -> Tensor:
        """Hidden states [N, hidden] to logits over image codes, float32 [N, V]."""
        w = self._weights
        normed = F.rms_norm(x, x.shape[-1:], w.norm, self._config.rms_norm_eps)
        inner: Tensor = self._activation(F.linear(normed, w.head_in, w.head_in_bias))
        return F.linear(inner, w.head_out, w.head_out_bias).float()

    @torch.no_grad()
    def _rotations(self, network: JanusForConditionalGeneration) -> Tensor:
        """e^{i · position · frequency}, complex64 [max_length, head_dim / 2]."""
        positions = torch.arange(self.max_length, device=self.device)[None]
        nothing = torch.zeros(1, device=self.device)
        cos, sin = network.model.language_model.rotary_emb(nothing, positions)
        half = self._head_dim // 2
        return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())


def rotate(heads: Tensor, turns: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): neighbouring pairs of a head, as complex numbers, turned.

    transformers pairs the first half of a head with the second. Interleaving the weights once lets
    every step turn all pairs in one product.

    Args:
        heads: [..., H, head_dim].
        turns: complex64, broadcast against [..., H, head_dim / 2].
    """
    pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(heads.dtype)


@torch.no_grad()
def read_weights(network: JanusForConditionalGeneration) -> DecoderWeights:
    """The weights of a network, fused."""
    model = network.model
    config = model.language_model.config
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    layers = []
    for block in model.language_model.layers:
        attention, mlp = block.self_attn, block.mlp
        layers.append(
            LayerWeights(
                block.input_layernorm.weight.clone(),
                torch.cat(
                    [
                        _interleaved(attention.q_proj.weight, head_dim),
                        _interleaved(attention.k_proj.weight, head_dim),
                        attention.v_proj.weight,
                    ]
                ),
                attention.o_proj.weight.clone(),
                block.post_attention_layernorm.weight.clone(),
                torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                mlp.down_proj.weight.clone(),
            )
        )
    head = model.generation_head
    codes = torch.arange(network.config.vq_config.num_embeddings, device=model.generation_embeddings.weight.device)
    return DecoderWeights(
        tuple(layers),
        model.language_model.norm.weight.clone(),
        model.language_model.embed_tokens.weight.clone(),
        network.prepare_embeddings_for_image_generation(codes),
        head.proj_out.weight.clone(),
        head.proj_out.bias.clone(),
        head.vision_head.weight.clone(),
        head.vision_head.bias.clone(),
    )


def _interleaved(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of each head reordered from (first half, second half) to pairs: [heads · head_dim, hidden]."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def _check(config: LlamaConfig) -> None:
    """Refuse what this decoder would compute wrongly."""
    for name, wanted in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if getattr(config, name) != wanted:
            raise CheckpointError(f"config.json: text_config.{name} is {getattr(config, name)!r}; only {wanted!r} is served")
