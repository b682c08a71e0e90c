"""`focusdiff-bench speed`: the engine against other loops, as tables and one JSON line."""

import json
from collections.abc import Iterator, Sequence

import torch

from bench.speed.engine import Timing, Workload, poisson, preview_cost, profile, side_by_side
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
) -> Iterator[str]:
    """Run all timings; yield table lines as they are measured, then one JSON line.

    Args:
        model: shipped name or folder; None means tiny.
        geometry: model with random weights to use instead (`bench.speed.geometry`).
        device: cpu, cuda, mps or auto.
        threads: CPU threads.
        batches: numbers of images that arrive together, ascending.
        rounds: rounds per timing; the first of several is a warm-up.
        arrivals: images of the Poisson load; 0 skips it.
        baselines_up_to: larger batches are timed on the engine alone.

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
    result: dict[str, object] = {"model": janus.name, **where}
    yield f"{janus.name}, {', '.join(f'{k} {v}' for k, v in where.items())}"
    yield "\ntogether  way             codes s    whole s   images/s  time ÷ engine's: codes   whole"
    timed = {}
    for images in batches:
        timed[images] = side_by_side(work, images, rounds=rounds, alone=images > baselines_up_to)
        yield from _together_lines(images, timed[images])
    result["together"] = {n: {k: vars(v) for k, v in ways.items()} for n, ways in timed.items()}
    if min(batches) == 1:
        one = timed[1]["engine"]
        yield "\none after another ÷ together    codes   whole"
        for images in batches[1:]:
            many = timed[images]["engine"]
            ratios = f"{images * one.codes / many.codes:5.2f}×  {images * one.whole / many.whole:5.2f}×"
            yield f"{images:25} images  {ratios}"
    if min(batches) == 1 and arrivals:
        rate = 3 / one.whole
        yield f"\n{arrivals} images at {rate:.3g} a second, 3 × what one after another can serve"
        loads = {}
        for slots in sorted({1, max(batches)}):
            load_ = loads[slots] = poisson(work, slots=slots, arrivals=arrivals, per_second=rate)
            name = "one after another" if slots == 1 else f"{slots} slots"
            yield f"{name:18} {load_.rate:8.3f} images/s   p50 {load_.p50:8.3f} s   p95 {load_.p95:8.3f} s"
        result["poisson"] = {slots: vars(load_) for slots, load_ in loads.items()}
    yield "\nwhere the time goes      step  prefill  sample  pixels     own  (png)   share outside step and pixels"
    profiles = {}
    for images in sorted({min(batches), max(batches)}):
        profiles[images] = profile(work, images)
        yield _profile_line(images, profiles[images])
    result["profile"] = profiles
    yield "\npreviews, 3 requested each     made     seconds without    more"
    costs = {images: preview_cost(work, images, rounds=rounds) for images in profiles}
    for images, cost in costs.items():
        more = cost.seconds / cost.seconds_without - 1
        yield (
            f"{images:10} images together  {cost.made:3} of {cost.requested:3}  {cost.seconds:8.3f} "
            f"{cost.seconds_without:8.3f}  {more:6.1%}"
        )
    result["previews"] = {images: vars(cost) for images, cost in costs.items()}
    yield "\n" + json.dumps(result)


def _together_lines(images: int, timed: dict[str, Timing]) -> Iterator[str]:
    ours = timed["engine"]
    for name, seconds in timed.items():
        ratios = f"{seconds.codes / ours.codes:21.2f}×  {seconds.whole / ours.whole:6.2f}×" if name != "engine" else ""
        rate = images / seconds.whole
        yield f"{images:8}  {name:13} {seconds.codes:9.3f}  {seconds.whole:9.3f}  {rate:9.3f}  {ratios}"


def _profile_line(images: int, parts: dict[str, float]) -> str:
    whole = sum(parts.values()) - parts["png"]
    names = ("step", "prefill", "sample", "pixels", "own", "png")
    shares = "  ".join(f"{parts.get(name, 0.0) / whole:6.1%}" for name in names)
    return f"{images:10} images together  {shares}   {1 - (parts['step'] + parts['pixels']) / whole:6.1%}"
