"""The decode step, and the reading of prompts, as one C function, where the machine has a compiler.

PyTorch's operations are made for many rows. For the few rows of a step most of its time goes into
calls and into threads that meet and part. `step.c` computes the same in one go (docs/performance.md).
"""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.attention import Rows
from model.cpu.library import addresses, numbers, pointers
from model.decoder_weights import DecoderWeights, Int8Matrix, LayerWeights, Matrix
from model.kv_cache import KVCache, Prefix


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
        *pointers("layers norm head_in_bias head_out_bias rotations"),
        *_matrices("head_in head_out"),
        *numbers("layer_count hidden heads kv_heads head_dim intermediate head_hidden vocabulary positions"),
        ("epsilon", ctypes.c_float),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [*pointers("keys values"), *numbers("rows length")]

    @classmethod
    def of(cls, cache: KVCache) -> "_Cache":
        return cls(*addresses([cache.keys, cache.values]), cache.rows, cache.length)


def _int64s(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


class NativeStep:
    """The step over fixed weights.

    Args:
        weights: float32 or int8 on the CPU, each contiguous; they may change in place, not move.
        rotations: cosines and signed sines [2, positions, head_dim], float32.
        heads: of the queries.
        kv_heads: of keys and values.
        epsilon: of the norms.
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
        self._rotations = rotations  # C knows its address only
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

    def read(self, prompts: Sequence[Sequence[int]]) -> list[Prefix]:
        """See `Decoder.prefill`. A prompt leaves the same to the last bit whatever is read beside it.

        Raises:
            IndexError: the model has no such token.
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
        if len(prompts) == 1:
            return [Prefix(cache.keys[:, 0], cache.values[:, 0], logits[0])]
        return [
            Prefix(
                cache.keys[:, row, :, : len(prompt)].clone(),  # not to keep the others' alive
                cache.values[:, row, :, : len(prompt)].clone(),
                logits[row].clone(),
            )
            for row, prompt in enumerate(prompts)
        ]

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
        held = (codes, rows.index, rows.positions, logits, scratch)
        arguments = (
            ctypes.byref(self._model),
            ctypes.byref(_Cache.of(cache)),
            *addresses([self._weights.code_embedding]),
            count,
            *addresses(held[:3]),
            count,
            None,
            *addresses(held[3:]),
            threads,
        )
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
