"""Codes of all images being drawn, and sampling of the next ones."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor

from model.batch_sampling import BatchSettings, filter_each, guide_each, sample_each
from model.cpu.library import native_library
from model.cpu.sampler import NativeSampler
from model.device import upload
from model.noise import gumbel
from model.params import SamplingParams


@dataclass(frozen=True)
class SamplerBatch:
    """N images that are sampled together, until one joins or leaves.

    rows: int64 [N], the row of the sampler's state that holds each image.
    sampled: int64 [N], number of codes each image has; incremented in place.
    conditional, unconditional: int64 [N], rows of the logits; the same row for an unguided image.
    paired: whether all images are guided, so that conditional and unconditional rows alternate.
    image_of_row: int64 [R], the image (0 … N − 1) of each row of the logits.
    latest: int64 [R], latest code of each row's image, the input of the next step; overwritten in place.
    progress: [row, seed, codes sampled] of each image, on the host, for the noise table.
    method: settings for PyTorch's operations, or the C function prepared for these images.
    """

    rows: Tensor
    sampled: Tensor
    conditional: Tensor
    unconditional: Tensor
    paired: bool
    image_of_row: Tensor
    latest: Tensor
    progress: list[list[int]]
    method: BatchSettings | NativeSampler


class NoiseTable:
    """Gumbel noise of `model.noise.gumbel`, computed for several positions of an image at once: [rows, ahead, V].

    Computed one position at a time, it would cost a small model more than the decode step.
    """

    def __init__(self, *, rows: int, tokens: int, vocabulary: int, device: torch.device) -> None:
        self._ahead = max(1, min(tokens, 2**16 // vocabulary))
        self._table = torch.zeros(rows, self._ahead, vocabulary, dtype=torch.float32, device=device)

    def next(self, batch: SamplerBatch) -> Tensor:
        """Noise for the next code of each image: [N, V]."""
        due = defaultdict(list)
        for row, seed, position in batch.progress:
            if position % self._ahead == 0:
                due[position].append((row, seed))
        for start, images in due.items():
            device = self._table.device
            seeds = upload([seed for _, seed in images], device).repeat_interleave(self._ahead)
            positions = torch.arange(start, start + self._ahead, device=device).repeat(len(images))
            noise = gumbel(seeds, positions, self._table.shape[-1])
            self._table[upload([row for row, _ in images], device)] = noise.view(len(images), self._ahead, -1)
        return self._table[batch.rows, batch.sampled % self._ahead]


class Sampler:
    """Samples and stores the codes of many images. Each image's codes equal those of `model.sampling.sample`.

    Args:
        rows: most images that can be stored; the engine uses the first KV row of an image as its row here.
        tokens: number of codes of an image.
        vocabulary: V, the number of codes to choose from.
        device: of all tensors.
        native: use the C function, if the device is a CPU and the machine has a compiler.
        logprobs: keep the log-probability of every code as well.
    """

    def __init__(
        self,
        *,
        rows: int,
        tokens: int,
        vocabulary: int,
        device: torch.device,
        native: bool = True,
        logprobs: bool = False,
    ) -> None:
        self._device, self._vocabulary = device, vocabulary
        self._codes = torch.zeros(rows, tokens, dtype=torch.int64, device=device)
        # sums of an image's guided logits: finite as long as all of them are
        self._sums = torch.zeros(rows, dtype=torch.float32, device=device)
        self._logprobs = torch.zeros(rows if logprobs else 0, tokens, dtype=torch.float32, device=device)
        self._library = native_library() if native and device.type == "cpu" else None
        self._noise: NoiseTable | None = None
        if self._library is None:
            self._noise = NoiseTable(rows=rows, tokens=tokens, vocabulary=vocabulary, device=device)

    def begin(self, rows: Sequence[int]) -> None:
        """Start new images in these rows."""
        self._sums[upload(rows, self._device)] = 0

    def batch(
        self,
        rows: Sequence[int],
        logit_rows: Sequence[int],
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        sampled: Sequence[int],
    ) -> SamplerBatch:
        """Prepare N images for `sample`.

        Args:
            rows: the row of each image.
            logit_rows: rows of the logits that each image has: 1, or 2 when guided, the conditional one first.
            params: settings of each image.
            seeds: seed of each image.
            sampled: number of codes each image has.
        """
        ends = list(accumulate(logit_rows))
        starts = [end - own for end, own in zip(ends, logit_rows, strict=True)]
        own_rows, counts, first = (upload(values, self._device) for values in (rows, sampled, starts))
        last = upload([end - 1 for end in ends], self._device)
        image_of_row = upload([image for image, own in enumerate(logit_rows) for _ in range(own)], self._device)
        latest = self._codes[own_rows, counts - 1][image_of_row]
        method: BatchSettings | NativeSampler
        if self._library is None:
            method = BatchSettings.of(params, self._vocabulary, self._device)
        else:
            method = NativeSampler(
                self._library,
                params,
                seeds,
                rows=own_rows,
                sampled=counts,
                conditional=first,
                unconditional=last,
                latest=latest,
                codes=self._codes,
                sums=self._sums,
                logprobs=self._logprobs,
                vocabulary=self._vocabulary,
            )
        paired = all(own == 2 for own in logit_rows)
        progress = [list(one) for one in zip(rows, seeds, sampled, strict=True)]
        return SamplerBatch(own_rows, counts, first, last, paired, image_of_row, latest, progress, method)

    def sample(self, logits: Tensor, batch: SamplerBatch) -> None:
        """Sample one more code for every image.

        Args:
            logits: float32 [R, V].
            batch: the images.
        """
        if isinstance(batch.method, NativeSampler):
            batch.method(logits)
            return
        conditional = logits[0::2] if batch.paired else logits[batch.conditional]
        unconditional = logits[1::2] if batch.paired else logits[batch.unconditional]
        guided = guide_each(conditional, unconditional, batch.method)
        assert self._noise is not None
        kept = filter_each(guided, batch.method)
        codes = sample_each(kept, batch.method, self._noise.next(batch))
        self._codes[batch.rows, batch.sampled] = codes
        if len(self._logprobs):
            chosen = kept.log_softmax(-1).gather(-1, codes[:, None])[:, 0]
            greedy = batch.method.greedy
            self._logprobs[batch.rows, batch.sampled] = (
                chosen if greedy is None else chosen.masked_fill(greedy[:, 0], 0.0)
            )
        batch.latest.copy_(codes[batch.image_of_row])
        self._sums.index_add_(0, batch.rows, guided.sum(-1))
        batch.sampled.add_(1)
        for one in batch.progress:
            one[2] += 1

    def codes(self, rows: Sequence[int]) -> Tensor:
        """All codes of the images in these rows, int64 [n, tokens]; codes not sampled yet are meaningless."""
        return self._codes[upload(rows, self._device)]

    def logprobs(self, rows: Sequence[int]) -> Tensor:
        """Log-probabilities of `codes`, float32 [n, tokens]: of each code among those that the filters kept.

        0 for greedy images. The sampler must have been made with `logprobs`.
        """
        return self._logprobs[upload(rows, self._device)]

    def finite(self, rows: Sequence[int]) -> list[bool]:
        """Whether all guided logits so far were finite, for the image of each of these rows."""
        return cast(list[bool], self._sums[upload(rows, self._device)].isfinite().tolist())
