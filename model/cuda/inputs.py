"""Inputs of a step: the codes that it is fed, and the images that it draws for."""

from collections.abc import Sequence

import torch

from model.sampler.state import SampledImage, SamplerState


class StepInputs:
    """Inputs of steps with at most `size` rows, at fixed places on the device, so that a captured step finds them there.

    Rows that no image needs are fed code 0 at position 0 of a spare row of the cache.

    codes, index, positions: int64 [size], the codes that are fed, their rows of the cache, and their positions there.
    conditional, unconditional: int64 [size], for each image the rows of its logits, the same row if it is unguided; −1 where
        there is no image.
    rows: int64 [size], of each image in the sampler.
    seeds, places: int64 [size], of each image, and the place of the code that is drawn next.
    top_k: int64 [size]; 0 where it keeps all, and for greedy images.
    guidance, temperature, top_p: float64 [size]; temperature 0 is greedy; top_p is 1 where it keeps all.
    thresholds, last_kept: float32 and int64 [size], what the filters of each image keep (`model.cuda.sampling`).
    """

    def __init__(self, size: int, *, spare_row: int, device: torch.device) -> None:
        self.size, self._spare_row = size, spare_row
        self.codes = torch.zeros(size, dtype=torch.int64, device=device)
        self._whole = torch.zeros(9, size, dtype=torch.int64, device=device)
        self._real = torch.zeros(3, size, dtype=torch.float64, device=device)
        self.index, self.positions, self._latest, *of_images = self._whole
        self.conditional, self.unconditional, self.rows, self.seeds, self.places, self.top_k = of_images
        self.guidance, self.temperature, self.top_p = self._real
        self.thresholds = torch.zeros(size, dtype=torch.float32, device=device)
        self.last_kept = torch.zeros(size, dtype=torch.int64, device=device)
        self.fill([], None)

    @property
    def images(self) -> int:
        """Most images of a step: each has a row at least."""
        return self.size

    def fill(self, images: Sequence[SampledImage], state: SamplerState | None) -> None:
        """Take other images, whose latest codes are in `state`. The host does not wait for the device."""
        tokens = state.tokens if state else 0
        fed: list[tuple[int, int, int]] = []
        drawn: list[tuple[int, ...]] = []
        settings: list[tuple[float, float, float]] = []
        for image in images:
            first, params = len(fed), image.params
            latest = image.rows[0] * tokens + max(image.sampled - 1, 0)  # of an image without codes nothing reads it
            for row, length in zip(image.rows, image.prompt_lengths, strict=True):
                fed.append((row, length + image.sampled - 1, latest))
            warm = params.temperature > 0
            top_k = params.top_k if warm else 0
            drawn.append((first, len(fed) - 1, image.rows[0], image.seed, image.sampled, top_k))
            settings.append((params.guidance_scale, params.temperature, params.top_p if warm else 1.0))
        fed += [(self._spare_row, 0, 0)] * (self.size - len(fed))
        drawn += [(-1, -1, 0, 0, 0, 0)] * (self.size - len(drawn))
        settings += [(1.0, 0.0, 1.0)] * (self.size - len(settings))
        whole = torch.cat([torch.tensor(fed).T, torch.tensor(drawn).T])
        real = torch.tensor(settings, dtype=torch.float64).T
        for kept, new in ((self._whole, whole), (self._real, real)):
            kept.copy_(new.contiguous().pin_memory() if kept.is_cuda else new, non_blocking=True)
        if state is not None:
            torch.index_select(state.codes.flatten(), 0, self._latest, out=self.codes)


def step_sizes(rows: int) -> list[int]:
    """Sizes of steps of at most `rows` rows, ascending, close enough together that filling up wastes little."""
    few = [size for size in (1, 2, 4, 8, 12, 16, 24, 32, 48) if size < rows]
    return [*few, *range(64, rows, 32), rows]
