"""Guidance, filters and sampling in one C function, `sampler.c`.

To filter, PyTorch sorts all 16,384 codes; the C function only counts them (docs/performance.md).
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.cpu.library import addresses, numbers, pointers
from model.params import SamplingParams
from model.sampling import filtered, guide, sample


class _Batch(ctypes.Structure):
    _fields_ = [
        *pointers("conditional unconditional guidance temperature top_k top_p"),
        *pointers("rows sampled latest seeds codes sums logprobs ambiguous"),
        *numbers("images vocabulary tokens"),
    ]


class NativeSampler:
    """Samples the next code of N fixed images, once per step.

    Args:
        library: the compiled C functions (`model.cpu.library`).
        params: settings of each image.
        seeds: seed of each image.
        rows: int64 [N]; this and the next four are as in `model.sampler.SamplerBatch`.
        sampled: int64 [N].
        conditional: int64 [N].
        unconditional: int64 [N].
        latest: int64 [R].
        codes: int64 [rows, tokens], codes of all images. `codes` and `sums` must keep their memory.
        sums: float32 [rows], sums of each image's guided logits; finite as long as every logit is.
        logprobs: float32 [rows, tokens], log-probabilities of the codes; empty if they are not wanted.
        vocabulary: V, the number of codes to choose from.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        *,
        rows: Tensor,
        sampled: Tensor,
        conditional: Tensor,
        unconditional: Tensor,
        latest: Tensor,
        codes: Tensor,
        sums: Tensor,
        logprobs: Tensor,
        vocabulary: int,
    ) -> None:
        self._library = library
        self._params = tuple(params)
        self._seeds = torch.tensor(list(seeds), dtype=torch.int64)
        self._logit_rows = list(zip(conditional.tolist(), unconditional.tolist(), strict=True))
        self._rows, self._sampled, self._latest = rows, sampled, latest
        self._codes, self._logprobs = codes, logprobs
        self._ambiguous = torch.zeros(len(params), dtype=torch.int8)
        settings = [
            torch.tensor([float(one.guidance_scale) for one in params], dtype=torch.float32),
            torch.tensor([float(one.temperature) for one in params], dtype=torch.float32),
            torch.tensor([min(one.top_k, vocabulary) for one in params], dtype=torch.int64),
            torch.tensor([float(one.top_p) for one in params], dtype=torch.float64),
        ]
        tensors = [conditional, unconditional, *settings, rows, sampled, latest, self._seeds, codes, sums, logprobs]
        self._held = (*tensors, self._ambiguous)  # keeps the memory alive: C has pointers only
        self._threads = torch.get_num_threads()
        self._scratch = torch.empty(self._threads * library.sample_scratch(vocabulary), dtype=torch.uint8)
        self._logits: Tensor | None = None
        self._arguments: tuple[Any, ...] = ()
        self._batch = _Batch(*addresses(self._held), len(params), vocabulary, codes.shape[1])

    def __call__(self, logits: Tensor) -> None:
        """Sample one more code for each image from logits, float32 [R, V]."""
        if logits is not self._logits:  # the decoder returns the same tensor at every step
            assert logits.dtype == torch.float32
            self._logits = logits
            self._arguments = ctypes.byref(self._batch), *addresses([logits, self._scratch]), self._threads
        if self._library.sample(*self._arguments):
            for image in self._ambiguous.nonzero()[:, 0].tolist():
                self._resample(image, logits)

    def _resample(self, image: int, logits: Tensor) -> None:
        """Sample again with the reference, `model.sampling`: the best codes are too close for C's precision."""
        conditional, unconditional = self._logit_rows[image]
        params, position = self._params[image], self._sampled[image] - 1
        guided = guide(logits[conditional], logits[unconditional], params.guidance_scale)
        code = sample(guided[None], params, seeds=self._seeds[image, None], positions=position[None])[0]
        self._codes[self._rows[image], position] = code
        if self._logprobs.numel():
            self._logprobs[self._rows[image], position] = filtered(guided, params).log_softmax(-1)[code]
        self._latest[[conditional, unconditional]] = code
