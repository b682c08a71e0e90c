"""The decode step as one C function, where the machine has a compiler.

PyTorch's operations are made for many rows. For the few rows of a step most of its time goes into
calls and into threads that meet and part. `cpu_step.c` computes the same in one go (docs/performance.md).
"""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.attention import Rows
from model.decoder_weights import DecoderWeights, Int8Matrix, LayerWeights, Matrix
from model.kv_cache import KVCache
from model.native import addresses, numbers, pointers


class _Matrix(ctypes.Structure):
    _fields_ = pointers("floats bytes scales")

    @classmethod
    def of(cls, matrix: Matrix) -> "_Matrix":
        if isinstance(matrix, Int8Matrix):
            return cls(None, *addresses([matrix.values, matrix.scales]))
        return cls(*addresses([matrix]), None, None)


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
        *pointers("layers inputs norm head_in_bias head_out_bias turns"),
        *_matrices("head_in head_out"),
        *numbers("layer_count hidden heads kv_heads head_dim intermediate head_hidden vocabulary positions"),
        ("epsilon", ctypes.c_float),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [*pointers("keys values"), *numbers("rows length")]


class CpuStep:
    """The step over fixed weights.

    Args:
        weights: float32 or int8 on the CPU, each contiguous; they may change in place, not move.
        turns: cosines and signed sines [2, positions, head_dim], float32.
        heads: of the queries.
        kv_heads: of keys and values.
        epsilon: of the norms.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        weights: DecoderWeights,
        turns: Tensor,
        *,
        heads: int,
        kv_heads: int,
        epsilon: float,
    ) -> None:
        self._library = library
        self._call: _Call | None = None
        self._held = (weights, turns)  # C knows addresses only
        self._layers = (_Layer * len(weights.layers))(*map(_Layer.of, weights.layers))
        self._model = _Model(
            ctypes.cast(self._layers, ctypes.c_void_p),
            *addresses([weights.inputs, weights.norm, weights.head_in_bias, weights.head_out_bias, turns]),
            _Matrix.of(weights.head_in),
            _Matrix.of(weights.head_out),
            len(weights.layers),
            weights.inputs.shape[1],
            heads,
            kv_heads,
            turns.shape[-1],
            weights.layers[0].down.shape[1],
            weights.head_in.shape[0],
            weights.head_out.shape[0],
            turns.shape[1],
            epsilon,
        )

    def __call__(self, codes: Tensor, rows: Rows, cache: KVCache) -> Tensor:
        """See `Decoder.step`; every row has at least one token in the cache."""
        if self._call is None or not self._call.suits(codes, rows, cache):
            self._call = self._prepare(codes, rows, cache)
        self._library.step(*self._call.arguments)
        rows.steps += 1
        return self._call.logits

    def _prepare(self, codes: Tensor, rows: Rows, cache: KVCache) -> "_Call":
        count, threads = len(codes), torch.get_num_threads()
        # the default type may be another one while a model is being loaded in another thread
        logits = torch.empty(count, self._model.vocabulary, dtype=torch.float32)
        size = self._library.step_scratch(ctypes.byref(self._model), count, cache.length, threads)
        scratch = torch.empty(size, dtype=torch.float32)
        where = _Cache(*addresses([cache.keys, cache.values]), cache.rows, cache.length)
        held = (codes, rows.index, rows.positions, logits, scratch)
        arguments = (ctypes.byref(self._model), ctypes.byref(where), count, *addresses(held), threads)
        return _Call(codes, rows, cache, logits, arguments, held)


class _Call(NamedTuple):
    """A step that is done again and again while the same images are drawn.

    After each step, which reads all weights, the caches hold nothing else: then every operation of
    PyTorch, however small, takes a tenth of a millisecond and more.
    """

    codes: Tensor
    rows: Rows
    cache: KVCache
    logits: Tensor
    arguments: tuple[Any, ...]
    held: tuple[Tensor, ...]  # C knows addresses only

    def suits(self, codes: Tensor, rows: Rows, cache: KVCache) -> bool:
        """Whether it is the step of these."""
        return codes is self.codes and rows is self.rows and cache is self.cache
