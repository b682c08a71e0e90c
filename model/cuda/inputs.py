"""Inputs of a step: the codes that it is fed, and the places that it draws."""

from collections.abc import Sequence

import torch

from model.sampler.state import SampledImage


class StepInputs:
    """Inputs of steps that are fed at most `size` codes, at fixed places on the device, where a captured step finds them.

    An image has a window of one place or several: so many places are drawn, and each of its rows is fed so many codes. What
    no image needs is fed as some code at position 0 of a spare row of the cache. All tensors are [size].

    codes, index, positions: int64, the codes that are fed, their rows of the cache, and their positions there.
    conditional, unconditional: int64, of each draw the rows of its logits, the same row if the image is unguided; −1 where
        there is no draw.
    rows: int64, of each draw's image in the sampler.
    seeds, places: int64, of each draw.
    top_k: int64, of each draw; 0 where it keeps all, and for greedy images.
    guidance, temperature, top_p: float64, of each draw; temperature 0 is greedy; top_p is 1 where it keeps all.
    thresholds, last_kept: float32 and int64, what the filters of each draw keep (`model.cuda.sampling`).
    totals: float32, the sum of the guided logits of each draw.
    windows, first_draws: int64, of each image the number of its places, 0 where there is none, and the first of its draws.
    first_fed, other_fed: int64, where the codes begin that its first row is fed, and its other one, which may be the same.
    lengths, other_lengths: int64, tokens of the prompts in these rows.
    sampled, confirmed: int64, codes that each image has, and those that it gained in the latest step.
    """

    def __init__(self, size: int, *, spare_row: int, device: torch.device) -> None:
        self.size, self._spare_row = size, spare_row
        self.codes, self.positions, self.last_kept, self.confirmed = torch.zeros(
            4, size, dtype=torch.int64, device=device
        )
        self._whole = torch.zeros(14, size, dtype=torch.int64, device=device)
        self._real = torch.zeros(3, size, dtype=torch.float64, device=device)
        self.index, *of_draws_and_images = self._whole
        of_draws, of_images = of_draws_and_images[:6], of_draws_and_images[6:]
        self.conditional, self.unconditional, self.rows, self.seeds, self.places, self.top_k = of_draws
        self.windows, self.first_draws, self.first_fed, self.other_fed = of_images[:4]
        self.lengths, self.other_lengths, self.sampled = of_images[4:]
        self.guidance, self.temperature, self.top_p = self._real
        self.thresholds, self.totals = torch.zeros(2, size, dtype=torch.float32, device=device)
        self.fill([], [])

    def fill(self, images: Sequence[SampledImage], windows: Sequence[int]) -> None:
        """Take other images; `model.cuda.sampling.feed` then fills in codes and positions.

        The host does not wait for the device.
        """
        index: list[int] = []
        draws: list[tuple[int, ...]] = []
        settings: list[tuple[float, float, float]] = []
        of_images: list[tuple[int, ...]] = []
        for image, window in zip(images, windows, strict=True):
            params, warm = image.params, image.params.temperature > 0
            first, other = len(index), len(index) + (len(image.rows) - 1) * window
            of_images.append(
                (window, len(draws), first, other, image.prompt_lengths[0], image.prompt_lengths[-1], image.sampled)
            )
            for place in range(window):
                draws.append(
                    (
                        first + place,
                        other + place,
                        image.rows[0],
                        image.seed,
                        image.sampled + place,
                        params.top_k if warm else 0,
                    )
                )
                settings.append((params.guidance_scale, params.temperature, params.top_p if warm else 1.0))
            index += [row for row in image.rows for _ in range(window)]
        index += [self._spare_row] * (self.size - len(index))
        draws += [(-1, -1, 0, 0, 0, 0)] * (self.size - len(draws))
        of_images += [(0,) * 7] * (self.size - len(of_images))
        settings += [(1.0, 0.0, 1.0)] * (self.size - len(settings))
        whole = torch.cat([torch.tensor([index]), torch.tensor(draws).T, torch.tensor(of_images).T])
        real = torch.tensor(settings, dtype=torch.float64).T
        for kept, new in ((self._whole, whole), (self._real, real)):
            kept.copy_(new.contiguous().pin_memory() if kept.is_cuda else new, non_blocking=True)
        self.positions.zero_()


def step_sizes(codes: int) -> list[int]:
    """Sizes of steps of at most `codes` codes, ascending, close enough together that filling up wastes little."""
    few = [size for size in (1, 2, 4, 8, 12, 16, 24, 32, 48) if size < codes]
    return [*few, *range(64, codes, 32), codes]
