"""Seconds of a step by images and width of their windows: measured on this machine, or by a roofline."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.speed.geometry import Geometry
from model.params import SamplingParams
from model.sampler.sampler import Sampler
from model.sampler.state import SampledImage
from serve.engine.engine import Engine

Shape = tuple[int, int]  # images, and places of each
StepSeconds = Mapping[Shape, float]

_REPEATS = 6  # steps of a shape in a row: right after those of another, a step takes longer


class StepTimer:
    """Times the part of decoder and sampler in steps of guided images in the middle of their pictures.

    Args:
        engine: draws nothing meanwhile.
        shapes: that take turns.
        params: of all images.
        prompt_tokens: of all prompts.
    """

    def __init__(self, engine: Engine, shapes: Sequence[Shape], params: SamplingParams, *, prompt_tokens: int) -> None:
        janus = engine.janus
        self._engine, self._shapes, self._params, self._prompt_tokens = engine, shapes, params, prompt_tokens
        self._sampler = Sampler(
            rows=engine.cache.rows,
            tokens=janus.image_tokens,
            vocabulary=janus.codebook_size,
            grid=janus.grid,
            device=janus.device,
        )
        self._middle = (janus.image_tokens - max(width for _, width in shapes)) // 2
        self._turns, self._taken = 0, defaultdict[Shape, list[float]](list)

    def turn(self) -> None:
        """Time a few steps of every shape."""
        for images, width in self._shapes[:: -1 if self._turns % 2 else 1]:
            self._sampler.begin(range(0, 2 * images, 2))  # forgets guesses, which would all be right
            batch = self._sampler.batch(
                [
                    SampledImage(
                        (2 * image, 2 * image + 1), (self._prompt_tokens,) * 2, self._params, image, self._middle
                    )
                    for image in range(images)
                ],
                [width] * images,
            )
            for repeat in range(_REPEATS):
                if batch.rows.count < 2 * images * width:  # a small picture ends
                    assert repeat > 1, "the window was cut short"
                    break
                begun = time.perf_counter()
                batch.sample(self._engine.decoder.step(batch.codes, batch.rows, self._engine.cache))
                if repeat:  # the first step of a batch prepares its memory
                    self._taken[images, width].append(time.perf_counter() - begun)
        self._turns += 1

    def take(self) -> StepSeconds:
        """Seconds of a step of each shape, from the turns since this was last called.

        Of their times the lower quartile counts: other load on the machine only adds.
        """
        taken, self._taken = self._taken, defaultdict(list)
        return {shape: sorted(times)[len(times) // 4] for shape, times in taken.items()}


@dataclass(frozen=True)
class Accelerator:
    """bandwidth: of memory in bytes per second. flops: of matrix products in bfloat16, per second."""

    name: str
    bandwidth: float
    flops: float


H100 = Accelerator("H100", 3.0e12, 600e12)  # a copy's speed (docs/deploy.md); 60 % of the 989e12 of the data sheet


def roofline(geometry: Geometry, on: Accelerator, shape: Shape, *, length: int) -> float:
    """Least seconds of a step in bfloat16: weights, keys and values are read once, or the products take longer.

    Args:
        length: tokens in each row.
    """
    images, width = shape
    hidden, codebook = geometry.hidden, 16384
    block = 4 * hidden**2 + 3 * hidden * geometry.intermediate
    weights = geometry.layers * block + hidden * (hidden + codebook)
    kept = 2 * images * length * 2 * geometry.layers * hidden
    return max(2 * (weights + kept) / on.bandwidth, 2 * weights * 2 * images * width / on.flops)
