"""`focusdiff-bench speed`: the engine against other loops."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from bench.measurements.measurement import Measurement, Number
from bench.speed.engine import Load, PreviewCost, Timing, Workload, poisson, preview_cost, profile, side_by_side
from bench.speed.geometry import random_janus
from model.checkpoints.load import load
from model.device import choose_device
from train.provenance import provenance


def report(
    *,
    model: str | None,
    geometry: str | None,
    device: str,
    threads: int,
    batches: Sequence[int],
    rounds: int,
    arrivals: int,
    baselines_up_to: int,
    show: Callable[[str], None],
) -> Measurement:
    """Run all timings.

    Args:
        model: shipped name or folder; None means tiny.
        geometry: model with random weights to use instead (`bench.speed.geometry`).
        device: cpu, cuda, mps or auto.
        threads: CPU threads.
        batches: numbers of images that arrive together, ascending.
        rounds: rounds per timing; the first of several is a warm-up.
        arrivals: images of the Poisson load; 0 skips it.
        baselines_up_to: larger batches are timed on the engine alone.
        show: called with table lines as they are measured.

    Raises:
        ValueError: a setting is out of range; the message names it.
    """
    for name, value, least in (("--threads", threads, 1), ("--rounds", rounds, 1), ("--arrivals", arrivals, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if min(batches) < 1:
        raise ValueError(f"--images must be at least 1, not {min(batches)}")
    torch.set_num_threads(threads)
    place = choose_device(device)
    if geometry is not None:
        janus = random_janus(geometry, place, torch.bfloat16 if place.type == "cuda" else torch.float32)
    else:
        janus = load(model or "tiny", device=device)
    work = Workload.of(janus)
    where = provenance(device=janus.device, dtype=janus.dtype)
    numbers: list[Number] = []
    show(f"{janus.name}, {', '.join(f'{k} {v}' for k, v in where.items())}")
    show("\ntogether  way             codes s    whole s   images/s  time ÷ engine's: codes   whole")
    timed = {}
    for images in batches:
        timed[images] = side_by_side(work, images, rounds=rounds, alone=images > baselines_up_to)
        for line in _together_lines(images, timed[images]):
            show(line)
        numbers += _together_numbers(images, timed[images])
    if min(batches) == 1:
        one = timed[1]["engine"]
        show("\none after another ÷ together    codes   whole")
        for images in batches[1:]:
            many = timed[images]["engine"]
            codes, whole = images * one.codes / many.codes, images * one.whole / many.whole
            show(f"{images:25} images  {codes:5.2f}×  {whole:5.2f}×")
            numbers.append(Number(f"one after another ÷ {images} together", whole, "ratio", "higher"))
    if min(batches) == 1 and arrivals:
        rate = 3 / one.whole
        show(f"\n{arrivals} images at {rate:.3g} a second, 3 × what one after another can serve")
        for slots in sorted({1, max(batches)}):
            load_ = poisson(work, slots=slots, arrivals=arrivals, per_second=rate)
            name = "one after another" if slots == 1 else f"{slots} slots"
            show(f"{name:18} {load_.rate:8.3f} images/s   p50 {load_.p50:8.3f} s   p95 {load_.p95:8.3f} s")
            numbers += _poisson_numbers(name, load_)
    show("\nwhere the time goes      step  prefill  sample  pixels     own  (png)   share outside step and pixels")
    ends = sorted({min(batches), max(batches)})
    for images in ends:
        parts = profile(work, images)
        show(_profile_line(images, parts))
        outside = _share_outside(parts)
        numbers.append(Number(f"outside step and pixels, {images} together", outside, "share", "lower"))
    show("\npreviews, 3 requested each     made     seconds without    more")
    for images in ends:
        cost = preview_cost(work, images, rounds=rounds)
        show(_preview_line(images, cost))
        numbers.append(Number(f"cost of previews, {images} together", cost.more, "share", "lower"))
    workload = {"model": janus.name, "images": list(batches), "rounds": rounds, "arrivals": arrivals}
    return Measurement("speed", workload, where, numbers)


def _together_lines(images: int, timed: Mapping[str, Timing]) -> Iterator[str]:
    ours = timed["engine"]
    for name, seconds in timed.items():
        ratios = f"{seconds.codes / ours.codes:21.2f}×  {seconds.whole / ours.whole:6.2f}×" if name != "engine" else ""
        rate = images / seconds.whole
        yield f"{images:8}  {name:13} {seconds.codes:9.3f}  {seconds.whole:9.3f}  {rate:9.3f}  {ratios}"


def _together_numbers(images: int, timed: Mapping[str, Timing]) -> Iterator[Number]:
    for name, seconds in timed.items():
        yield Number(f"{name}, {images} together", images / seconds.whole, "images/s", "higher")
    for name in ("single places", "transformers", "growing cache"):
        if name in timed:
            ratio = timed[name].whole / timed["engine"].whole
            yield Number(f"{name} ÷ engine, {images} together", ratio, "ratio", "higher")


def _poisson_numbers(name: str, load: Load) -> Iterator[Number]:
    yield Number(f"random arrivals, {name}", load.rate, "images/s", "higher")
    yield Number(f"random arrivals, {name}: p50", load.p50, "s", "lower")
    yield Number(f"random arrivals, {name}: p95", load.p95, "s", "lower")


def _profile_line(images: int, parts: Mapping[str, float]) -> str:
    whole = sum(parts.values()) - parts["png"]
    names = ("step", "prefill", "sample", "pixels", "own", "png")
    shares = "  ".join(f"{parts.get(name, 0.0) / whole:6.1%}" for name in names)
    return f"{images:10} images together  {shares}   {_share_outside(parts):6.1%}"


def _share_outside(parts: Mapping[str, float]) -> float:
    """Share of the engine's time that is spent outside the decoder's step and the image tokenizer."""
    whole = sum(parts.values()) - parts["png"]
    return 1 - (parts.get("step", 0.0) + parts["pixels"]) / whole


def _preview_line(images: int, cost: PreviewCost) -> str:
    return (
        f"{images:10} images together  {cost.made:3} of {cost.requested:3}  {cost.seconds:8.3f} "
        f"{cost.seconds_without:8.3f}  {cost.more:6.1%}"
    )
