"""The engine with everything that it does, and other loops on the same weights."""

import time
from collections.abc import Iterator

import torch

from bench.cuda.result import Result, forget, peak_of
from bench.cuda.workbench import Workbench
from bench.speed.baselines import with_a_growing_cache, with_transformers

_FULL_STEPS = 64  # that are timed while images arrive one by one


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_engine(bench: Workbench) -> Iterator[Result]:
    """Time images that arrive together, whole, and steps while images arrive, and end, one by one at an even pace."""
    from serve.engine.draw import draw
    from serve.engine.engine import Engine
    from serve.engine.job import Job

    def jobs(count: int, first: int) -> list[Job]:
        return [Job(bench.prompt, None, (first + number,), bench.params) for number in range(count)]

    tokens, ends = bench.janus.image_tokens, sorted({min(bench.images), max(bench.images)})
    for images in ends:
        engine = Engine(bench.janus, slots=images, native=False, kernels=True)
        if not bench.dry:
            list(draw(engine, jobs(images, 0)))  # warm-up: every size has kernels and plans of its own
        _settle(bench.device)
        started = time.perf_counter()
        list(draw(engine, jobs(images, 1000)))
        _settle(bench.device)
        seconds = time.perf_counter() - started
        yield Result(
            "engine", f"{images} images together", seconds, images=images, whole=True, peak=peak_of(bench.device)
        )
        del engine
        forget(bench.device)
    images = max(ends)
    engine = Engine(bench.janus, slots=images, native=False, kernels=True)
    waiting, steps, begun = jobs(3 * images, 2000), 0, 0.0
    counted = 2 if bench.dry else _FULL_STEPS
    while steps < tokens + counted:
        if steps * images >= (3 * images - len(waiting)) * tokens and waiting:
            engine.submit(waiting.pop())
        if steps == tokens:
            _settle(bench.device)
            begun = time.perf_counter()
        engine.step()
        steps += 1
    _settle(bench.device)
    each = (time.perf_counter() - begun) / counted
    rows = 2 * images
    yield Result(
        "engine",
        f"{images} images one by one",
        each,
        bytes=bench.weight_bytes + bench.row_bytes(rows),
        flops=2 * rows * bench.weight_numbers,
        images=images,
        peak=peak_of(bench.device),
    )


def measure_baselines(bench: Workbench) -> Iterator[Result]:
    """Time transformers' generation of one image, and an ordinary loop whose cache grows, of one and of many."""
    params = bench.params.override(temperature=1.0, top_k=0, top_p=1.0)
    ways = [("transformers", with_transformers, 1), ("growing cache", with_a_growing_cache, 1)]
    if not bench.dry:
        ways.append(("growing cache", with_a_growing_cache, max(bench.images)))
    for name, way, images in ways:
        _settle(bench.device)
        started = time.perf_counter()
        way(bench.janus, bench.prompt, range(images), params)
        _settle(bench.device)
        seconds = time.perf_counter() - started
        yield Result("baselines", f"{name}, {images} images", seconds, images=images, whole=True)
