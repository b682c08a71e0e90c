"""How fast the engine draws, beside other loops over the same weights: one run, one table, one JSON line.

Everything is timed in turn, way after way and round after round, so that what disturbs the machine
disturbs all alike. Seconds are wall time.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import serve.engine
from bench.drawing_loops import with_a_growing_cache, with_transformers
from bench.geometry import random_janus
from bench.provenance import provenance
from bench.stopwatch import Stopwatch
from model.checkpoint import choose_device, load
from model.janus import Janus
from model.params import SamplingParams
from model.vq import decode_images
from serve.engine import Engine
from serve.events import Finished
from serve.image import png_bytes
from serve.request import Job, Request

_PROMPT = "three red circles and a blue star"
_PROMPT_IDS = list(range(100, 126))  # where a model has no tokenizer


@dataclass(frozen=True)
class Workload:
    """What is measured: a model, a prompt as token ids, and settings that every way of drawing has."""

    janus: Janus
    prompt: list[int]
    params: SamplingParams

    @classmethod
    def of(cls, janus: Janus) -> "Workload":
        """At the checkpoint's guidance, without top-k and top-p, which the published loop lacks."""
        ids = [janus.ids.bos, *_PROMPT_IDS, janus.ids.begin_of_image]
        prompt = janus.encode(_PROMPT) if janus.tokenizer else ids
        return cls(janus, prompt, janus.recipe.override(temperature=1.0, top_k=0, top_p=1.0))

    def job(self, seeds: Sequence[int]) -> Job:
        """One request for so many pictures."""
        return Job(self.prompt, None, tuple(seeds), self.params)


@dataclass(frozen=True)
class Seconds:
    """Of one batch of pictures: drawing their codes, and turning codes into pixels."""

    codes: float
    pixels: float

    @property
    def whole(self) -> float:
        """From prompt to pixels."""
        return self.codes + self.pixels


def time_loop(draw: Callable[..., Tensor], work: Workload, images: int) -> Seconds:
    """A loop that returns codes, then the image tokenizer."""
    _settle(work.janus)
    started = time.perf_counter()
    codes = draw(work.janus, work.prompt, range(images), work.params)
    _settle(work.janus)
    middle = time.perf_counter()
    decode_images(work.janus, codes)
    return Seconds(middle - started, time.perf_counter() - middle)


def time_engine(engine: Engine, work: Workload, images: int) -> Seconds:
    """One request for so many images through the engine."""
    stopwatch = Stopwatch()
    _settle(work.janus)
    started = time.perf_counter()
    with stopwatch.over(pixels=(serve.engine, "decode_images")):
        _run(engine, work.job(range(images)))
    whole = time.perf_counter() - started
    return Seconds(whole - stopwatch.seconds["pixels"], stopwatch.seconds["pixels"])


def _run(engine: Engine, *jobs: Job) -> None:
    for job in jobs:
        engine.submit(job)
    while not engine.idle:
        engine.step()


def _settle(janus: Janus) -> None:
    if janus.device.type == "cuda":
        torch.cuda.synchronize()


def side_by_side(work: Workload, images: int, *, rounds: int, alone: bool = False) -> dict[str, Seconds]:
    """Medians of the engine and, unless it is `alone`, of the other loops, for images that arrive together."""
    engine = Engine(work.janus, images=images)
    ways: dict[str, Callable[[], Seconds]] = {"engine": lambda: time_engine(engine, work, images)}
    if not alone:
        ways["transformers"] = lambda: time_loop(with_transformers, work, images)
        ways["growing cache"] = lambda: time_loop(with_a_growing_cache, work, images)
    taken: dict[str, list[Seconds]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
    kept = {name: times[1:] or times for name, times in taken.items()}  # the first round warms up
    return {
        name: Seconds(statistics.median(t.codes for t in times), statistics.median(t.pixels for t in times))
        for name, times in kept.items()
    }


@dataclass(frozen=True)
class Load:
    """Images that arrived at random: how many a second came, and how long each took from its arrival."""

    rate: float
    p50: float
    p95: float


def poisson(work: Workload, *, slots: int, arrivals: int, per_second: float) -> Load:
    """Single images at exponential intervals; the same ones for every number of slots."""
    gaps = np.random.default_rng(0).exponential(1 / per_second, arrivals)
    due = np.cumsum(gaps) - gaps[0]
    engine = Engine(work.janus, images=slots)
    arrived: dict[Request, float] = {}
    took: list[float] = []
    seed = 0
    started = time.perf_counter()
    while len(took) < arrivals:
        now = time.perf_counter() - started
        while seed < arrivals and due[seed] <= now:
            arrived[engine.submit(work.job([seed]))] = float(due[seed])
            seed += 1
        if engine.idle:
            time.sleep(max(0.0, due[seed] - (time.perf_counter() - started)))
            continue
        for request, event in engine.step():
            if isinstance(event, Finished):
                took.append(time.perf_counter() - started - arrived[request])
    whole = time.perf_counter() - started
    return Load(arrivals / whole, float(np.percentile(took, 50)), float(np.percentile(took, 95)))


def profile(work: Workload, images: int) -> dict[str, float]:
    """Seconds of the engine's parts for images that arrive together; "own" is what the engine itself adds."""
    engine = Engine(work.janus, images=images)
    _run(engine, work.job(range(images)))  # warms up
    pictures = []
    stopwatch = Stopwatch()
    started = time.perf_counter()
    with stopwatch.over(
        prefill=(engine.decoder, "prefill"),
        step=(engine.decoder, "step"),
        sample=(engine, "_sample"),
        pixels=(serve.engine, "decode_images"),
    ):
        engine.submit(work.job(range(images)))
        while not engine.idle:
            pictures += [event.picture for _, event in engine.step() if isinstance(event, Finished)]
    whole = time.perf_counter() - started
    parts = dict(stopwatch.seconds)
    parts["own"] = whole - sum(parts.values())
    started = time.perf_counter()
    for picture in pictures:
        png_bytes(picture, {})
    return parts | {"png": time.perf_counter() - started}


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
) -> str:
    """Time everything; a table for people and one JSON line for machines.

    Args:
        model: shipped name or folder; or
        geometry: a model with random weights (`bench.geometry`).
        device: cpu, cuda, mps or auto.
        threads: of the CPU.
        batches: how many images arrive together.
        rounds: of each timing; the first is not counted.
        arrivals: images of the Poisson load; 0 leaves it out.
        baselines_up_to: larger batches than this are timed on the engine alone.
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
    lines = [f"{janus.name}, {', '.join(f'{k} {v}' for k, v in where.items())}", ""]
    results: dict[str, object] = {"model": janus.name, **where}

    lines.append("together  way             codes s    whole s   images/s  engine is faster: codes   whole")
    timed = {}
    for images in batches:
        timed[images] = side_by_side(work, images, rounds=rounds, alone=images > baselines_up_to)
        ours = timed[images]["engine"]
        for name, seconds in timed[images].items():
            ratios = (
                "" if name == "engine" else f"{seconds.codes / ours.codes:21.2f}×  {seconds.whole / ours.whole:6.2f}×"
            )
            rate = images / seconds.whole
            lines.append(f"{images:8}  {name:13} {seconds.codes:9.3f}  {seconds.whole:9.3f}  {rate:9.3f}  {ratios}")
    results["together"] = {n: {k: vars(v) for k, v in ways.items()} for n, ways in timed.items()}

    one = timed[min(batches)]["engine"]
    if min(batches) == 1 and max(batches) > 1:
        lines += ["", "one after another ÷ together    codes   whole"]
        for images in batches[1:]:
            all_at_once = timed[images]["engine"]
            lines.append(
                f"{images:25} images  {images * one.codes / all_at_once.codes:5.2f}×  "
                f"{images * one.whole / all_at_once.whole:5.2f}×"
            )

    if arrivals and min(batches) == 1:
        rate = 3 / one.whole
        lines += ["", f"{arrivals} images at {rate:.3g} a second, 3 × what one after another can serve"]
        loads = {slots: poisson(work, slots=slots, arrivals=arrivals, per_second=rate) for slots in (1, max(batches))}
        for slots, load_ in loads.items():
            name = "one after another" if slots == 1 else f"{slots} slots"
            lines.append(f"{name:18} {load_.rate:8.3f} images/s   p50 {load_.p50:8.3f} s   p95 {load_.p95:8.3f} s")
        results["poisson"] = {slots: vars(load_) for slots, load_ in loads.items()}

    lines += [
        "",
        "where the time goes      step  prefill  sample  pixels     own  (png)   share outside step and pixels",
    ]
    profiles = {}
    for images in (min(batches), max(batches)):
        parts = profiles[images] = profile(work, images)
        whole = sum(parts.values()) - parts["png"]
        names = ("step", "prefill", "sample", "pixels", "own", "png")
        shares = "  ".join(f"{parts.get(name, 0.0) / whole:6.1%}" for name in names)
        rest = 1 - (parts["step"] + parts["pixels"]) / whole
        lines.append(f"{images:10} images together  {shares}   {rest:6.1%}")
    results["profile"] = profiles
    return "\n".join([*lines, "", json.dumps(results)])
