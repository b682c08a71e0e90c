"""Images that are sampled together by Triton kernels."""

from collections.abc import Sequence

from torch import Tensor

from model.attention import Rows
from model.cuda.inputs import StepInputs
from model.cuda.sampling import draw
from model.sampler.state import SampledImage, SamplerState


class KernelBatch:
    """Images that are sampled together (`model.sampler.state.SamplerBatch`), with windows of one place.

    Args:
        state: gains the codes.
        images: the images.
        inputs: of their steps, with at least as many rows; filled here, and not to be filled anew while this batch is used.
    """

    def __init__(self, state: SamplerState, images: Sequence[SampledImage], inputs: StepInputs) -> None:
        self._state, self.inputs, self.images = state, inputs, len(images)
        inputs.fill(images, state)
        self.codes = inputs.codes
        self.rows = Rows(inputs.index, inputs.positions, sum(len(image.rows) for image in images))

    def widen(self, widths: Sequence[int]) -> None:
        """Set the widths of the next windows: 1 each."""
        assert set(widths) <= {1}, widths

    def sample(self, logits: Tensor) -> Sequence[int]:
        """Sample (`model.sampler.state.SamplerBatch`). The host does not wait for the device."""
        draw(logits, self.inputs, self._state, advance=False)
        return [1] * self.images
