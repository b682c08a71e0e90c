"""Seconds of a step by images and width of their windows: measured on this machine, or by a roofline."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.speed.geometry import Geometry
from model.params import SamplingParams
from model.sampler.sampler import Sampler
from model.sampler.state import SampledImage
from serve.engine.engine import Engine

Shape = tuple[int, int]  # images, and places of each

_REPEATS = 6  # steps of a shape in a row: right after those of another, a step takes longer


def step_seconds(
    engine: Engine, shapes: Sequence[Shape], params: SamplingParams, *, prompt_tokens: int, rounds: int
) -> dict[Shape, float]:
    """Seconds of decoder and sampler for a step of guided images in the middle of their pictures.

    Shapes take turns in every round. Of their times the lower quartile counts: other load on the machine only adds.
    """
    janus = engine.janus
    sampler = Sampler(
        rows=engine.cache.rows,
        tokens=janus.image_tokens,
        vocabulary=janus.codebook_size,
        grid=janus.grid,
        device=janus.device,
    )
    taken: dict[Shape, list[float]] = {shape: [] for shape in shapes}
    middle = (janus.image_tokens - max(width for _, width in shapes)) // 2
    for turn in range(rounds):
        for images, width in list(shapes)[:: -1 if turn % 2 else 1]:
            sampler.begin(range(0, 2 * images, 2))  # forgets guesses, which would all be right
            batch = sampler.batch(
                [
                    SampledImage((2 * image, 2 * image + 1), (prompt_tokens,) * 2, params, image, middle)
                    for image in range(images)
                ],
                [width] * images,
            )
            for repeat in range(_REPEATS):
                if batch.rows.count < 2 * images * width:  # a small picture ends
                    assert repeat > 1, "the window was cut short"
                    break
                begun = time.perf_counter()
                batch.sample(engine.decoder.step(batch.codes, batch.rows, engine.cache))
                if repeat:  # the first step of a batch prepares its memory
                    taken[images, width].append(time.perf_counter() - begun)
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
