"""Whole steps, replayed: of several numbers of images, and of several places of one."""

from collections.abc import Iterator

from bench.cuda.result import Result, peak_of
from bench.cuda.timing import time_calls
from bench.cuda.workbench import Workbench
from model.cuda.graphs import StepGraphs

_WINDOWS = (1, 2, 4, 8, 16, 32)


def measure_steps(bench: Workbench) -> Iterator[Result]:
    """Time a step that decodes and draws, at all numbers of images, with one engine's worth of memory."""
    most = max(bench.images)
    sampler, cache = bench.sampler(most), bench.cache(most)
    graphs = StepGraphs(bench.step, sampler, cache)
    for images in bench.images:
        batch = bench.half_drawn(sampler, images)
        seconds = time_calls(lambda batch=batch: graphs(batch), device=bench.device, times=bench.times)  # type: ignore[misc]
        rows = 2 * images
        yield Result(
            "steps",
            f"{images} images",
            seconds.device,
            host=seconds.host,
            bytes=bench.weight_bytes + bench.row_bytes(rows),
            flops=2 * rows * bench.weight_numbers,
            images=images,
            peak=peak_of(bench.device),
        )


def measure_windows(bench: Workbench) -> Iterator[Result]:
    """Time a step that computes several places of one guided image; after it the host must know how many were confirmed."""
    sampler = bench.sampler(1)
    graphs = StepGraphs(bench.step, sampler, bench.cache(1))
    for width in _WINDOWS[:2] if bench.dry else _WINDOWS:
        batch = bench.half_drawn(sampler, 1)
        batch.widen([width])
        seconds = time_calls(lambda batch=batch: graphs(batch), device=bench.device, times=bench.times)  # type: ignore[misc]
        yield Result(
            "windows",
            f"{width} places",
            seconds.device,
            host=seconds.host,
            bytes=bench.weight_bytes + bench.row_bytes(2),
            flops=2 * 2 * width * bench.weight_numbers,
        )
