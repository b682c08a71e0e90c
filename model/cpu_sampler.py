"""Guide, filter and sample as one C function, where the machine has a compiler.

Of 16,384 codes PyTorch sorts all to keep some of them; `cpu_sampler.c` counts (docs/performance.md).
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.native import addresses, numbers, pointers
from model.params import SamplingParams
from model.sampling import guide, sample


class _Draws(ctypes.Structure):
    _fields_ = [
        *pointers("conditional unconditional guidance temperature top_k top_p slots drawn fed seeds codes sums unsure"),
        *numbers("images vocabulary tokens"),
    ]


class CpuDrawer:
    """Draws codes of the same images again and again.

    Args:
        library: see `model.native`.
        params: of N images.
        seeds: of each.
        slots: int64 [N], as the rest in `model.sampler.Draws`.
        drawn: int64 [N].
        conditional: int64 [N].
        unconditional: int64 [N].
        fed: int64 [rows].
        codes: int64 [slots, tokens], of all images; like `sums` it must not move.
        sums: float32 [slots].
        vocabulary: V.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        *,
        slots: Tensor,
        drawn: Tensor,
        conditional: Tensor,
        unconditional: Tensor,
        fed: Tensor,
        codes: Tensor,
        sums: Tensor,
        vocabulary: int,
    ) -> None:
        self._library = library
        self._params = tuple(params)
        self._seeds = torch.tensor(list(seeds), dtype=torch.int64)
        self._rows = list(zip(conditional.tolist(), unconditional.tolist(), strict=True))
        self._slots, self._drawn, self._fed, self._codes = slots, drawn, fed, codes
        self._unsure = torch.zeros(len(params), dtype=torch.int8)
        settings = [
            torch.tensor([float(one.guidance_scale) for one in params], dtype=torch.float32),
            torch.tensor([float(one.temperature) for one in params], dtype=torch.float32),
            torch.tensor([min(one.top_k, vocabulary) for one in params], dtype=torch.int64),
            torch.tensor([float(one.top_p) for one in params], dtype=torch.float64),
        ]
        tensors = [conditional, unconditional, *settings, slots, drawn, fed, self._seeds, codes, sums, self._unsure]
        self._held = tuple(tensors)  # C knows addresses only
        self._threads = torch.get_num_threads()
        self._scratch = torch.empty(self._threads * library.draw_scratch(vocabulary), dtype=torch.uint8)
        self._logits: Tensor | None = None
        self._arguments: tuple[Any, ...] = ()
        self._draws = _Draws(*addresses(tensors), len(params), vocabulary, codes.shape[1])

    def __call__(self, logits: Tensor) -> None:
        """One more code for every image from logits, float32 [rows, V]."""
        if logits is not self._logits:  # the decoder's are the same at every step
            assert logits.dtype == torch.float32
            self._logits = logits
            self._arguments = ctypes.byref(self._draws), *addresses([logits, self._scratch]), self._threads
        if self._library.draw(*self._arguments):
            for image in self._unsure.nonzero()[:, 0].tolist():
                self._decide(image, logits)

    def _decide(self, image: int, logits: Tensor) -> None:
        """Between codes that are as good as equal, as the reference does."""
        conditional, unconditional = self._rows[image]
        params, position = self._params[image], self._drawn[image] - 1
        guided = guide(logits[conditional], logits[unconditional], params.guidance_scale)
        code = sample(guided[None], params, seeds=self._seeds[image, None], positions=position[None])[0]
        self._codes[self._slots[image], position] = code
        self._fed[[conditional, unconditional]] = code
