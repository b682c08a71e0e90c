"""Decode step and prefill in one C function, `step.c`, for machines with a C compiler.

PyTorch's operations are made for many rows. With the few rows of a step, most of the time goes into calls and into
starting and joining threads. `step.c` computes the same in one call (docs/performance.md).
"""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.attention import Rows
from model.cpu.library import addresses, numbers, pointers
from model.decoder_weights import DecoderWeights, LayerWeights, Matrix, PackedMatrix
from model.kv_cache import KVCache, Prefix


class _Matrix(ctypes.Structure):
    _fields_ = pointers("floats bytes scales")

    @classmethod
    def of(cls, matrix: Matrix) -> "_Matrix":
        assert isinstance(matrix, PackedMatrix)
        if matrix.scales is None:
            return cls(*addresses([matrix.values]), None, None)
        return cls(None, *addresses([matrix.values, matrix.scales]))


def _matrices(names: str) -> list[tuple[str, type[_Matrix]]]:
    return [(name, _Matrix) for name in names.split()]


class _Layer(ctypes.Structure):
    _fields_ = [*pointers("attention_norm mlp_norm"), *_matrices("qkv out gate_up down")]

    @classmethod
    def of(cls, layer: LayerWeights) -> "_Layer":
        matrices = [layer.qkv, layer.out, layer.gate_up, layer.down]
        return cls(*addresses([layer.attention_norm, layer.mlp_norm]), *map(_Matrix.of, matrices))


class _Model(ctypes.Structure):
    _fields_ = [
        *pointers("layers norm head_in_bias head_out_bias rotations"),
        *_matrices("head_in head_out"),
        *numbers("layer_count hidden heads kv_heads head_dim intermediate head_hidden vocabulary positions"),
        ("epsilon", ctypes.c_float),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [*pointers("keys values"), *numbers("rows length narrow")]

    @classmethod
    def of(cls, cache: KVCache) -> "_Cache":
        assert cache.values.dtype in (torch.float32, torch.bfloat16)
        narrow = cache.values.dtype == torch.bfloat16
        return cls(*addresses([cache.keys, cache.values]), cache.rows, cache.length, narrow)


def _int64s(values: Sequence[int] | range) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


class NativeStep:
    """Decode step and prefill with fixed weights.

    Args:
        library: the compiled C functions (`model.cpu.library`).
        weights: on the CPU, with packed matrices. They may be changed in place, but must keep their memory.
        rotations: float32 [2, positions, head_dim], cosines and sines of the rotary embedding; the sines of the
            first half of each head are negated.
        heads: number of query heads.
        kv_heads: number of key-value heads.
        epsilon: of the RMS norms.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        weights: DecoderWeights,
        rotations: Tensor,
        *,
        heads: int,
        kv_heads: int,
        epsilon: float,
    ) -> None:
        self._library = library
        self._call: _Call | None = None
        self._weights = weights
        self._rotations = rotations  # keeps the memory alive: C has a pointer only
        self._layers = (_Layer * len(weights.layers))(*map(_Layer.of, weights.layers))
        self._model = _Model(
            ctypes.cast(self._layers, ctypes.c_void_p),
            *addresses([weights.norm, weights.head_in_bias, weights.head_out_bias, rotations]),
            _Matrix.of(weights.head_in),
            _Matrix.of(weights.head_out),
            len(weights.layers),
            weights.code_embedding.shape[1],
            heads,
            kv_heads,
            rotations.shape[-1],
            weights.layers[0].down.shape[1],
            weights.head_in.shape[0],
            weights.head_out.shape[0],
            rotations.shape[1],
            epsilon,
        )

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Compute the prefixes of prompts, as `Decoder.prefill` does; to the last bit the same in any batch.

        Raises:
            IndexError: a token is outside the vocabulary.
        """
        model, embedding = self._model, self._weights.text_embedding
        tokens = [token for prompt in prompts for token in prompt]
        if not all(0 <= token < len(embedding) for token in tokens):
            raise IndexError(f"a prompt has tokens outside 0 … {len(embedding) - 1}")
        ends = [end - 1 for end in accumulate(map(len, prompts))]
        longest, count, threads = max(map(len, prompts)), len(tokens), torch.get_num_threads()
        cache = KVCache(
            layers=len(self._layers),
            rows=len(prompts),
            kv_heads=model.kv_heads,
            length=longest,
            head_dim=model.head_dim,
            device=embedding.device,
            dtype=torch.float32,
            in_blocks=True,
        )
        logits = torch.empty(len(prompts), model.vocabulary, dtype=torch.float32)
        size = self._library.step_scratch(ctypes.byref(model), count, longest, threads)
        scratch = torch.empty(size, dtype=torch.float32)
        self._library.step(
            ctypes.byref(model),
            ctypes.byref(_Cache.of(cache)),
            *addresses([embedding]),
            count,
            _int64s(tokens),
            _int64s([row for row, prompt in enumerate(prompts) for _ in prompt]),
            _int64s([position for prompt in prompts for position in range(len(prompt))]),
            len(prompts),
            _int64s(ends),
            *addresses([logits, scratch]),
            threads,
        )
        # copies: a view would keep the other prompts' memory alive
        return [cache.prefix(row, len(prompt), logits[row]) for row, prompt in enumerate(prompts)]

    def __call__(self, codes: Tensor, rows: Rows, cache: KVCache) -> Tensor:
        """Compute logits like `Decoder.step`; every row must have at least one token in the cache."""
        call = self._call
        if call is None or not call.suits(codes, rows, cache):
            call = self._call = self._prepare(codes, rows, cache)
        ends = call.all if rows.windowed else None  # rows of one token each do not wait for each other's keys
        self._library.step(*call.first, rows.count, *call.inputs, rows.count, ends, *call.last)
        rows.advanced()
        if rows.count not in call.views:
            call.views[rows.count] = call.logits[: rows.count]
        return call.views[rows.count]

    def _prepare(self, codes: Tensor, rows: Rows, cache: KVCache) -> "_Call":
        most, threads = len(codes), torch.get_num_threads()
        # explicit dtype: the default may be another one while another thread is loading a model
        logits = torch.empty(most, self._model.vocabulary, dtype=torch.float32)
        size = self._library.step_scratch(ctypes.byref(self._model), most, cache.length, threads)
        scratch = torch.empty(size, dtype=torch.float32)
        return _Call(
            codes,
            rows,
            cache,
            logits,
            first=(
                ctypes.byref(self._model),
                ctypes.byref(_Cache.of(cache)),
                *addresses([self._weights.code_embedding]),
            ),
            inputs=tuple(addresses([codes, rows.index, rows.positions])),
            all=_int64s(range(most)),
            last=(*addresses([logits, scratch]), threads),
            views={},
            held=(codes, rows.index, rows.positions, logits, scratch),
        )


class _Call(NamedTuple):
    """Prepared arguments of the step, in its order but for the number of tokens, reused while the same images are drawn.

    A step reads all weights, so that the CPU caches hold nothing else afterwards. Any PyTorch operation between two
    steps, however small, would then take a tenth of a millisecond or more.
    """

    codes: Tensor
    rows: Rows
    cache: KVCache
    logits: Tensor
    first: tuple[Any, ...]
    inputs: tuple[Any, ...]
    all: ctypes.Array[ctypes.c_int64]  # numbers of all tokens
    last: tuple[Any, ...]
    views: dict[int, Tensor]  # of the logits, by number of tokens
    held: tuple[Tensor, ...]  # keeps the memory alive: C has pointers only

    def suits(self, codes: Tensor, rows: Rows, cache: KVCache) -> bool:
        """Whether the arguments were prepared for these objects."""
        return codes is self.codes and rows is self.rows and cache is self.cache
