"""Guide, filter and sample as one C function, where the machine has a compiler.

Of 16,384 codes PyTorch sorts all to keep some of them; `cpu_sampling.c` counts (docs/performance.md).
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from model.native import addresses, numbers, pointers
from model.params import SamplingParams


class _Draws(ctypes.Structure):
    _fields_ = [
        *pointers("conditional unconditional guidance temperature top_k top_p slots drawn fed noise codes sums"),
        *numbers("images vocabulary ahead tokens"),
    ]


class CpuDraws:
    """Draws codes of the same images again and again; see `CpuSampler.prepare`."""

    def __init__(
        self, library: ctypes.CDLL, tensors: Sequence[Tensor], *, vocabulary: int, ahead: int, tokens: int
    ) -> None:
        self._library = library
        self._held = tuple(tensors)  # C knows addresses only
        self._images = len(tensors[0])
        self._vocabulary = vocabulary
        self._draws = _Draws(*addresses(tensors), self._images, vocabulary, ahead, tokens)

    def __call__(self, logits: Tensor) -> None:
        """One more code for every image from logits, float32 [rows, V]."""
        assert logits.dtype == torch.float32
        threads = torch.get_num_threads()
        scratch = torch.empty(threads * self._library.draw_scratch(self._vocabulary), dtype=torch.uint8)
        self._library.draw(ctypes.byref(self._draws), *addresses([logits, scratch]), threads)


class CpuSampler:
    """What `model.sampler.Sampler` keeps, for C; none of it may move.

    Args:
        library: see `model.native`.
        noise: float32 [slots, ahead, V], of positions modulo `ahead`.
        codes: int64 [slots, tokens].
        sums: float32 [slots].
    """

    def __init__(self, library: ctypes.CDLL, noise: Tensor, codes: Tensor, sums: Tensor) -> None:
        self._library = library
        self._kept = noise, codes, sums

    def prepare(
        self,
        params: Sequence[SamplingParams],
        slots: Tensor,
        drawn: Tensor,
        conditional: Tensor,
        unconditional: Tensor,
        fed: Tensor,
    ) -> CpuDraws:
        """For images that draw together; the tensors are those of `model.sampler.Draws`."""
        settings = [
            torch.tensor([float(one.guidance_scale) for one in params], dtype=torch.float32),
            torch.tensor([float(one.temperature) for one in params], dtype=torch.float32),
            torch.tensor([one.top_k for one in params], dtype=torch.int64),
            torch.tensor([float(one.top_p) for one in params], dtype=torch.float64),
        ]
        tensors = [conditional, unconditional, *settings, slots, drawn, fed, *self._kept]
        noise, codes, _ = self._kept
        _, ahead, vocabulary = noise.shape
        return CpuDraws(self._library, tensors, vocabulary=vocabulary, ahead=ahead, tokens=codes.shape[1])
