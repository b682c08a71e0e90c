"""Images that are sampled together by Triton kernels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from torch import Tensor

from model.attention import Rows
from model.cuda.inputs import StepInputs
from model.cuda.sampling import draw, feed
from model.sampler.state import SampledImage, SamplerState, windows_of


class KernelBatch:
    """Images that are sampled together (`model.sampler.state.SamplerBatch`).

    Args:
        state: gains the codes.
        images: the images.
        sizes: inputs of steps by size, ascending. The smallest that the images fit into is filled here, and is not to be
            filled anew while this batch is used.
        widths: of their windows.

    Attributes:
        inputs: of the next step.
    """

    inputs: StepInputs
    codes: Tensor
    rows: Rows

    def __init__(
        self,
        state: SamplerState,
        images: Sequence[SampledImage],
        sizes: Sequence[StepInputs],
        widths: Sequence[int],
    ) -> None:
        self._state, self._images, self._sizes = state, images, sizes
        self._sampled = [image.sampled for image in images]
        self.widen(widths)

    def widen(self, widths: Sequence[int]) -> None:
        """Set the widths of the next windows (`model.sampler.state.SamplerBatch`)."""
        self._widths = tuple(widths)
        self._fill()

    def sample(self, logits: Tensor) -> Sequence[int]:
        """Sample (`model.sampler.state.SamplerBatch`). The device is waited for if a window has several places."""
        draw(logits, self.inputs, self._state)
        return self.drawn()

    def drawn(self) -> list[int]:
        """Note that a step was drawn; returns how many codes each image gained.

        The device is waited for if a window has several places.
        """
        alone = max(self._windows, default=1) == 1
        confirmed = (
            [1] * len(self._images) if alone else cast(list[int], self.inputs.confirmed[: len(self._images)].tolist())
        )
        self._sampled = [codes + more for codes, more in zip(self._sampled, confirmed, strict=True)]
        if not alone and self._next_windows() != self._windows:
            self._fill()
        return confirmed

    def _next_windows(self) -> tuple[int, ...]:
        return windows_of(self._widths, self._sampled, self._state.tokens)

    def _fill(self) -> None:
        self._windows = self._next_windows()
        fed = sum(window * len(image.rows) for window, image in zip(self._windows, self._images, strict=True))
        self.inputs = next(inputs for inputs in self._sizes if inputs.size >= fed)
        images = [replace(image, sampled=codes) for image, codes in zip(self._images, self._sampled, strict=True)]
        self.inputs.fill(images, self._windows)
        feed(self.inputs, self._state)
        self.codes = self.inputs.codes
        self.rows = Rows(self.inputs.index, self.inputs.positions, fed)
