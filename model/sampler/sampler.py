"""Codes of all images being drawn, and sampling of the next ones.

A step computes a window of places for each image: the next one, and those behind it as if guesses of the codes between
were right. Noise depends on the seed and the place alone, so every draw is an arg-max, and a code is final as soon as
all guesses before it have turned out right (Jacobi iteration). The codes are the same as with windows of one place.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.cpu.library import native_library
from model.cpu.sampler import NativeBatch
from model.device import upload
from model.sampler.state import MOST_FED, SampledImage, SamplerBatch, SamplerState
from model.sampler.torch_batch import NoiseTable, TorchBatch

if TYPE_CHECKING:
    from model.cuda.inputs import StepInputs


class Sampler:
    """Samples and stores the codes of many images. Each image's codes equal those of `model.sampling.sample`.

    Args:
        rows: most images that can be stored; the engine uses the first KV row of an image as its row here.
        tokens: number of codes of an image.
        vocabulary: V, the number of codes to choose from.
        grid: codes in a line of the picture.
        device: of all tensors.
        native: use the C function, if the device is a CPU and the machine has a compiler.
        kernels: use the Triton kernels (`model.cuda`).
        logprobs: keep the log-probability of every code as well.

    Attributes:
        state: the codes of all rows.
        inputs: of the kernels' steps, by size, ascending; a batch takes the smallest that it fits into, and the batch that had
            it before is over. Empty without kernels.
    """

    def __init__(
        self,
        *,
        rows: int,
        tokens: int,
        vocabulary: int,
        grid: int,
        device: torch.device,
        native: bool = True,
        kernels: bool = False,
        logprobs: bool = False,
    ) -> None:
        self._device = device
        self.state = SamplerState.of(
            rows=rows, tokens=tokens, vocabulary=vocabulary, grid=grid, device=device, logprobs=logprobs
        )
        self._library = native_library() if native and device.type == "cpu" else None
        self.inputs = self._step_inputs() if kernels else []
        self._noise = None if self._library or kernels else NoiseTable(self.state)

    @property
    def tokens(self) -> int:
        """Codes of an image."""
        return self.state.tokens

    def begin(self, rows: Sequence[int]) -> None:
        """Start new images in these rows."""
        self.state.sums[upload(rows, self._device)] = 0
        self.state.guessed[upload(rows, self._device)] = 0

    def guess(self, row: int, codes: Sequence[int]) -> None:
        """Take codes of a picture that is like the new one in this row as guesses, from the first place on."""
        self.state.codes[row, : len(codes)] = upload(codes, self._device)
        self.state.guessed[row] = len(codes)

    def batch(self, images: Sequence[SampledImage], widths: Sequence[int] | None = None) -> SamplerBatch:
        """Prepare images to be sampled together; `widths` as in `SamplerBatch.widen`, all 1 if not given."""
        chosen = [1] * len(images) if widths is None else widths
        if self.inputs:
            from model.cuda.batch import KernelBatch

            return KernelBatch(self.state, images, self.inputs, chosen)
        if self._library is not None:
            return NativeBatch(self._library, self.state, images, chosen)
        assert self._noise is not None
        return TorchBatch(self.state, images, chosen, self._noise)

    def _step_inputs(self) -> "list[StepInputs]":
        from model.cuda.inputs import StepInputs, step_sizes

        rows = len(self.state.codes)
        return [StepInputs(size, spare_row=rows, device=self._device) for size in step_sizes(max(rows, MOST_FED))]

    def codes(self, rows: Sequence[int]) -> Tensor:
        """All codes of the images in these rows, int64 [n, tokens]; codes not sampled yet are meaningless."""
        return self.state.codes[upload(rows, self._device)]

    def logprobs(self, rows: Sequence[int]) -> Tensor:
        """Log-probabilities of `codes`, float32 [n, tokens]: of each code among those that the filters kept.

        0 for greedy images. The sampler must have been made with `logprobs`.
        """
        return self.state.logprobs[upload(rows, self._device)]

    def finite(self, rows: Sequence[int]) -> Tensor:
        """Whether all guided logits so far were finite, for the image of each of these rows: bool [n]."""
        return self.state.sums[upload(rows, self._device)].isfinite()
