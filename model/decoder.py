"""The decoder used for serving: fused weights, prefill of prompts, and one step for many rows.

It computes the same as `model.generate`, with few large operations and a cache that is allocated once. Each row has
its own position, so images may join and leave at any step.
"""

from collections.abc import Callable, Iterator, Sequence
from ctypes import CDLL
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import JanusForConditionalGeneration, LlamaConfig
from transformers.activations import GELUActivation

from model.attention import Rows, attend
from model.cpu.library import native_library
from model.cpu.step import NativeStep
from model.decoder_weights import (
    DecoderWeights,
    LayerWeights,
    Matrix,
    PackedMatrix,
    check_has_matrices,
    code_embeddings,
    decoder_weights,
    fuse_matrices,
    linear,
    move,
    pack_matrices,
    quantize_matrices,
)
from model.device import check_quantization, upload
from model.errors import CheckpointError
from model.janus import Janus
from model.kv_cache import FP8, KVCache, Prefix
from model.quantization import Quantization
from model.quantized_matrix import QuantizedMatrix

if TYPE_CHECKING:
    from model.cuda.step import KernelStep

_PREFILL_TOKENS = 1024  # that C reads at once; its scratch memory grows with them


class Decoder:
    """Prefill and step of one model.

    Args:
        janus: without the C function its matrices become views of fused ones, in place, so that the reference loop,
            training and this decoder share memory.
        native: use the C function of `model.cpu.step`, if the machine has a compiler and the model is on a CPU in
            float32. It reads packed copies of the matrices.
        quantization: keep matrices as integers or 8-bit floats. The C function takes int8, the kernels take all; without
            either it is slower than floats, and refused unless `native` is False.
        release: free the model's own matrices when they are packed or rounded; nothing but this decoder can then compute.
        kernels: use the Triton kernels of `model.cuda`, if not given on a CUDA device; elsewhere Triton's interpreter can run them.

        device: to which the model is moved, if that is another one. Only what is left of it when its matrices were rounded and
            freed, so that a small GPU never holds them all.

    Attributes:
        weights: what a step reads.
        kernels: the step of Triton kernels, if it is used.

    Raises:
        CheckpointError: the language model has a part that this decoder does not support, or `quantization` is refused.
    """

    def __init__(
        self,
        janus: Janus,
        *,
        native: bool = True,
        quantization: Quantization | None = None,
        release: bool = False,
        kernels: bool | None = None,
        device: torch.device | None = None,
    ) -> None:
        config = janus.network.config.text_config
        _check_supported(config)
        self.device, self.dtype = device or janus.device, janus.dtype
        self.image_tokens = janus.image_tokens
        self._config = config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        self._network = janus.network
        self._library = self._native_library() if native else None
        wanted = self.device.type == "cuda" if kernels is None else kernels
        if quantization is not None:
            fast = native and not wanted
            if fast or self.device.type == "cuda":
                check_quantization(quantization, self.device)
            if fast and self._library is None:
                raise CheckpointError("int8 weights need an NVIDIA GPU, or a CPU, float32 and a C compiler (cc)")
        self._quantization = quantization
        if quantization is None:
            move(janus.network, self.device)
        matrices: list[Matrix] = list(self._copies(janus.network, release=release) or fuse_matrices(janus.network))
        if quantization is not None:
            move(janus.network, self.device)  # what is left of it
        self.weights = decoder_weights(janus.network, iter(matrices))
        self._head = ImageHead(self.weights, janus.network.model.generation_head.activation_fn)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # of what the matrices were fused from
        self.rotations = self._rotation_table()
        self._native = self._native_step(self._library) if self._library else None
        self.kernels = self._kernel_step() if wanted else None

    @property
    def is_native(self) -> bool:
        """Whether steps run in the C function."""
        return self._native is not None

    @property
    def max_length(self) -> int:
        """Most tokens of a row that the model's positions allow."""
        return cast(int, self._config.max_position_embeddings)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the network's weights (shared storage counts once), the tables made from them, and packed matrices."""
        kept: dict[int, int] = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in (*self._network.state_dict().values(), self.weights.code_embedding, self.rotations)
            if tensor.device.type != "meta"
        }
        return sum(kept.values()) + sum(matrix.nbytes for matrix in self.weights.copies)

    @torch.no_grad()
    def load_weights(self, network: JanusForConditionalGeneration) -> None:
        """Copy all parameters of a network into this decoder's, and update the tables and packed matrices made from them.

        Given the decoder's own network, after its weights have changed, only the update is done. Everything happens
        in place, so captured graphs and the C function stay valid. Parameters that the decoder does not use are
        copied as well.

        Raises:
            CheckpointError: the network's matrices were freed (`model.decoder_weights.pack_matrices`).
        """
        check_has_matrices(network)
        if network is not self._network:
            for mine, other in zip(self._network.parameters(), network.parameters(), strict=True):
                mine.copy_(other)
        if copies := self._copies(network, release=False):
            for matrix, other in zip(self.weights.copies, copies, strict=True):
                matrix.copy_(other)  # type: ignore[arg-type]  # of the same class
        self.weights.code_embedding.copy_(code_embeddings(self._network))

    def cache(self, rows: int, length: int) -> KVCache:
        """Allocate a KV cache of `rows` × `length` tokens.

        Its numbers are 8-bit floats beside fp8 weights, bfloat16 beside a CPU's int8 weights, else of the model's dtype.
        Kernels and C functions read them as such, PyTorch as floats of the same values.
        """
        narrow = None
        if self._quantization == "fp8":
            narrow = FP8
        elif self._quantization == "int8" and self.device.type == "cpu" and not self.kernels:
            narrow = torch.bfloat16
        stored = self.is_native or self.kernels is not None
        return KVCache(
            layers=len(self.weights.layers),
            rows=rows,
            kv_heads=self._kv_heads,
            length=length,
            head_dim=self._head_dim,
            device=self.device,
            dtype=narrow if narrow and stored else self.dtype,
            rounded=None if stored else narrow,
            in_blocks=self.is_native,
        )

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Compute the prefixes of prompts, of any lengths.

        Raises:
            ValueError: a prompt has no tokens.
            IndexError: a token id is outside the vocabulary.
        """
        if not all(prompts):
            raise ValueError("a prompt has no tokens")
        if self._native is None:
            return self._prefill_padded(prompts)
        read: list[Prefix] = []
        while len(read) < len(prompts):
            left = prompts[len(read) :]
            few = next((n for n in range(len(left), 1, -1) if sum(map(len, left[:n])) <= _PREFILL_TOKENS), 1)
            read += self._native.prefill(left[:few])
        return read

    def _prefill_padded(self, prompts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Prefill in PyTorch, padded at the end, where causal attention hides the padding from real tokens."""
        longest = max(map(len, prompts))
        padded = [token for row in prompts for token in (*row, *[0] * (longest - len(row)))]
        # both now: on a GPU a copy amid the layers would come behind them
        ids, lengths = upload(padded, self.device).view(-1, longest), upload([len(row) for row in prompts], self.device)
        rotations = self.rotations[:, :longest, None]
        x = F.embedding(ids, self.weights.text_embedding)
        shape = (len(self.weights.layers), len(prompts), self._kv_heads, longest, self._head_dim)
        keys, values = x.new_empty(shape), x.new_empty(shape)
        for number, layer in enumerate(self.weights.layers):
            q, k, v = (part.transpose(1, 2) for part in self._project(x, layer, rotations))
            keys[number], values[number] = k, v
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self._grouped)
            x = self._output_and_mlp(x, attended.transpose(1, 2).flatten(2), layer)
        last = x[torch.arange(len(prompts), device=self.device), lengths - 1]
        logits = self._head(self._norm(last, self.weights.norm))
        return [
            Prefix(keys[:, i, :, : len(row)].clone(), values[:, i, :, : len(row)].clone(), logits[i].clone())
            for i, row in enumerate(prompts)
        ]

    def step(self, codes: Tensor, rows: Rows, cache: KVCache) -> Tensor:
        """Feed image codes to rows, one to each row or several, and advance the rows.

        A code attends to itself and to what its row has at lower positions, the other codes of this step included.
        What the row holds behind its last code is never read.

        Args:
            codes: int64 [T or more].
            rows: cache rows and positions of the T codes; advanced by one token, in place.
            cache: gains the codes, in place.

        Returns:
            Logits of the next code after each, float32 [T, V]; valid until the next step.
        """
        if self._native:
            return self._native(codes, rows, cache)
        with torch.inference_mode():
            if self.kernels:
                count = rows.count
                logits = self.kernels(codes[:count], rows.index[:count], rows.positions[:count], cache)
            else:
                logits = self._step(codes, rows, cache)
            rows.advance()
        return logits

    def _step(self, codes: Tensor, rows: Rows, cache: KVCache) -> Tensor:
        index, positions = rows.index[: rows.count], rows.positions[: rows.count]
        x = F.embedding(codes[: rows.count], self.weights.code_embedding)
        rotations = self.rotations[:, positions, None]
        for number, layer in enumerate(self.weights.layers):
            q, k, v = self._project(x, layer, rotations)
            cache.write(number, index, positions, k, v)
            x = self._output_and_mlp(x, attend(q, cache.keys[number], cache.values[number], rows), layer)
        return self._head(self._norm(x, self.weights.norm))

    def _copies(
        self, network: JanusForConditionalGeneration, *, release: bool
    ) -> Iterator[PackedMatrix] | Iterator[QuantizedMatrix] | None:
        """Copies of the network's matrices; None where its own are used."""
        if self._library is not None:
            group = self._library.integers_together()
            return pack_matrices(network, int8=self._quantization == "int8", group=group, release=release)
        if self._quantization:
            return quantize_matrices(network, self._quantization, self.device, release=release)
        return None

    def _native_library(self) -> CDLL | None:
        """The C functions; None without a compiler, or if they do not support the device, dtype or activation."""
        known = isinstance(self._network.model.generation_head.activation_fn, GELUActivation)
        supported = self.device.type == "cpu" and self.dtype == torch.float32 and known
        return native_library() if supported else None

    def _native_step(self, library: CDLL) -> NativeStep:
        epsilon = self._config.rms_norm_eps
        return NativeStep(
            library, self.weights, self.rotations, heads=self._heads, kv_heads=self._kv_heads, epsilon=epsilon
        )

    def _kernel_step(self) -> "KernelStep":
        from model.cuda.step import KernelStep  # Triton comes with PyTorch's CUDA builds only

        epsilon = self._config.rms_norm_eps
        return KernelStep(self.weights, self.rotations, self._head, heads=self._heads, epsilon=epsilon)

    @property
    def _grouped(self) -> bool:
        return cast(bool, self._heads != self._kv_heads)

    def _project(self, x: Tensor, layer: LayerWeights, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values; each [..., its heads, head_dim]."""
        joined = linear(self._norm(x, layer.attention_norm), layer.qkv)
        heads = joined.view(*x.shape[:-1], -1, self._head_dim)
        turned, values = torch.split(heads, [self._heads + self._kv_heads, self._kv_heads], dim=-2)
        queries, keys = torch.split(rotate(turned, rotations), [self._heads, self._kv_heads], dim=-2)
        return queries, keys, values

    def _output_and_mlp(self, x: Tensor, attended: Tensor, layer: LayerWeights) -> Tensor:
        """Rest of a block after attention [..., heads · head_dim]: output projection and MLP, with residuals."""
        x = x + linear(attended, layer.out)
        gate, up = linear(self._norm(x, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
        return x + linear(F.silu(gate) * up, layer.down)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], weight, self._config.rms_norm_eps)

    @torch.no_grad()
    def _rotation_table(self) -> Tensor:
        """Cosines and signed sines of all positions, float32 [2, max_length, head_dim]; see `rotate`."""
        positions = torch.arange(self.max_length, device=self.device)[None]
        nothing = torch.zeros(1, device=self.device)
        cos, sin = self._network.model.language_model.rotary_emb(nothing, positions)
        sign = torch.ones(self._head_dim, device=self.device)
        sign[: self._head_dim // 2] = -1
        return torch.stack([cos[0], sin[0] * sign]).float()


@dataclass(frozen=True)
class ImageHead:
    """From normalised hidden states to logits over image codes. Refers to weights alone: who keeps it keeps no decoder."""

    weights: DecoderWeights
    activation: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, product: Callable[[Tensor, Matrix], Tensor] = linear) -> Tensor:
        """Compute logits, float32 [N, V], of hidden states [N, hidden]; `product` multiplies by a matrix."""
        inner = self.activation(product(x, self.weights.head_in) + self.weights.head_in_bias)
        return (product(inner, self.weights.head_out) + self.weights.head_out_bias).float()


def rotate(heads: Tensor, rotations: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021); numbers half a head apart form a pair.

    Args:
        heads: [..., H, head_dim].
        rotations: cosines and sines [2, ..., 1, head_dim], the sines of the first half negated.
    """
    numbers = heads.float()
    turned = torch.addcmul(numbers * rotations[0], numbers.roll(numbers.shape[-1] // 2, -1), rotations[1])
    return turned.to(heads.dtype)


def _check_supported(config: LlamaConfig) -> None:
    """Raise CheckpointError for a configuration that this decoder would compute wrongly."""
    for name, wanted in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if getattr(config, name) != wanted:
            raise CheckpointError(
                f"config.json: text_config.{name} is {getattr(config, name)!r}; only {wanted!r} is supported"
            )
