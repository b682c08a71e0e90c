"""Whole steps, replayed: of several numbers of images, and of several places of one."""

from collections.abc import Iterator

from bench.cuda.result import Result, forget, peak_of
from bench.cuda.timing import Seconds, time_calls
from bench.cuda.workbench import Workbench
from model.cuda.graphs import StepGraphs
from model.cuda.step import KernelStep
from model.decoder import Decoder
from model.quantization import QUANTIZATIONS

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
        # the picture must not end, whatever is confirmed
        times = min(bench.times, bench.janus.image_tokens // 2 // width - 1)
        seconds = time_calls(lambda batch=batch: graphs(batch), device=bench.device, times=times)  # type: ignore[misc]
        yield Result(
            "windows",
            f"{width} places",
            seconds.device,
            host=seconds.host,
            bytes=bench.weight_bytes + bench.row_bytes(2),
            flops=2 * 2 * width * bench.weight_numbers,
        )


def measure_rounded(bench: Workbench) -> Iterator[Result]:
    """Time a step with rounded weights, for the fewest and the most images."""
    for quantization in QUANTIZATIONS:
        decoder = Decoder(bench.janus, native=False, kernels=True, quantization=quantization)
        step = decoder.kernels
        assert step is not None
        for images in sorted({min(bench.images), max(bench.images)}):
            seconds = _time_step(bench, step, images)
            yield Result(
                "rounded",
                f"{quantization}, {images} images",
                seconds.device,
                host=seconds.host,
                bytes=sum(matrix.nbytes for matrix in decoder.weights.matrices) + bench.row_bytes(2 * images),
                flops=2 * 2 * images * bench.weight_numbers,
                images=images,
            )
        del decoder, step
        forget(bench.device)


def _time_step(bench: Workbench, step: KernelStep, images: int) -> Seconds:
    """Time steps of images, with a sampler and a cache of their own; no other size is captured."""
    sampler = bench.sampler(images)
    sampler.inputs = [next(inputs for inputs in sampler.inputs if inputs.size >= 2 * images)]
    graphs = StepGraphs(step, sampler, bench.cache(images))
    batch = bench.half_drawn(sampler, images)
    return time_calls(lambda: graphs(batch), device=bench.device, times=bench.times)
