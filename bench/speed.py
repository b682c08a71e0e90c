"""How fast the engine draws, beside other loops over the same weights: one run, one table, one JSON line.

Everything is timed in turn, way after way and round after round, so that what disturbs the machine
disturbs all alike. Seconds are wall time.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.drawing_loops import with_a_growing_cache, with_transformers
from bench.geometry import random_janus
from bench.provenance import provenance
from bench.stopwatch import Stopwatch
from model.checkpoint import choose_device, load
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.params import SamplingParams
from serve.engine import Engine
from serve.events import Event, Finished, Preview
from serve.image import encode
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

    def job(self, seeds: Sequence[int], *, previews: int = 0) -> Job:
        """One request for so many pictures, with so many previews of each, evenly spread."""
        rows = frozenset(round(self.janus.grid * (i + 1) / (previews + 1)) for i in range(previews))
        return Job(self.prompt, None, tuple(seeds), self.params, preview_rows=rows)


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
    """A loop that returns codes, then transformers' own image tokenizer."""
    image_tokenizer = ImageTokenizer(work.janus, compiled=False)
    _settle(work.janus)
    started = time.perf_counter()
    codes = draw(work.janus, work.prompt, range(images), work.params)
    _settle(work.janus)
    middle = time.perf_counter()
    image_tokenizer.images(codes)
    return Seconds(middle - started, time.perf_counter() - middle)


def time_engine(engine: Engine, work: Workload, images: int) -> Seconds:
    """One request for so many images through the engine."""
    stopwatch = Stopwatch()
    _settle(work.janus)
    started = time.perf_counter()
    with stopwatch.over(pixels=(engine.image_tokenizer, "images")):
        _run(engine, work.job(range(images)))
    whole = time.perf_counter() - started
    return Seconds(whole - stopwatch.seconds["pixels"], stopwatch.seconds["pixels"])


def _run(engine: Engine, job: Job) -> None:
    engine.submit(job)
    for _ in _events(engine):
        pass


def _events(engine: Engine) -> Iterator[tuple[Request, Event]]:
    """What happens until nothing is left to draw."""
    while not engine.idle:
        yield from engine.step()


def _settle(janus: Janus) -> None:
    if janus.device.type == "cuda":
        torch.cuda.synchronize()


def side_by_side(work: Workload, images: int, *, rounds: int, alone: bool = False) -> dict[str, Seconds]:
    """Medians of the engine and, unless it is `alone`, of the other loops, for images that arrive together.

    The engine with PyTorch's operations only is what machines without a C compiler have.
    """
    engine, plain = (Engine(work.janus, images=images, compiled=compiled) for compiled in (True, False))
    ways: dict[str, Callable[[], Seconds]] = {"engine": lambda: time_engine(engine, work, images)}
    if engine.decoder.is_compiled:
        small = Engine(work.janus, images=images, int8=True)
        ways["int8"] = lambda: time_engine(small, work, images)
    if work.janus.device.type == "cpu":
        ways["no compiler"] = lambda: time_engine(plain, work, images)
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


@dataclass(frozen=True)
class PreviewCost:
    """Of previews of images that came one by one and are drawn together: wall seconds with and without them."""

    came: int
    asked: int
    seconds: float
    seconds_without: float


def preview_cost(work: Workload, images: int, *, rounds: int, each: int = 3) -> PreviewCost:
    """Medians with and without previews, in turn."""
    engine = Engine(work.janus, images=images)
    taken: dict[int, list[float]] = {0: [], each: []}
    came = 0
    for _ in range(rounds):
        for previews, times in taken.items():
            _settle(work.janus)
            started = time.perf_counter()
            for seed in range(images):
                engine.submit(work.job([seed], previews=previews))
            events = [event for _, event in _events(engine)]
            times.append(time.perf_counter() - started)
            if previews:
                came = sum(isinstance(event, Preview) for event in events)
    with_, without = (statistics.median(taken[n][1:] or taken[n]) for n in (each, 0))
    return PreviewCost(came, each * images, with_, without)


def profile(work: Workload, images: int) -> dict[str, float]:
    """Seconds of the engine's parts for images that arrive together; "own" is what the engine itself adds."""
    engine = Engine(work.janus, images=images)
    _run(engine, work.job(range(images)))  # warms up
    stopwatch = Stopwatch()
    started = time.perf_counter()
    with stopwatch.over(
        prefill=(engine.decoder, "prefill"),
        step=(engine.decoder, "step"),
        sample=(engine, "_sample"),
        pixels=(engine.image_tokenizer, "images"),
    ):
        engine.submit(work.job(range(images)))
        pictures = [event.picture for _, event in _events(engine) if isinstance(event, Finished)]
    whole = time.perf_counter() - started
    parts = dict(stopwatch.seconds)
    parts["own"] = whole - sum(parts.values())
    started = time.perf_counter()
    for picture in pictures:
        encode(picture, {})
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
) -> Iterator[str]:
    """Time everything: lines of a table for people as they come, and last a JSON line for machines.

    Args:
        model: shipped name or folder; or
        geometry: a model with random weights (`bench.geometry`).
        device: cpu, cuda, mps or auto.
        threads: of the CPU.
        batches: how many images arrive together, from few to many.
        rounds: of each timing; of several the first is not counted.
        arrivals: images of the Poisson load; 0 leaves it out.
        baselines_up_to: larger batches than this are timed on the engine alone.

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
    yield "\npreviews, 3 asked of each      came     seconds without    more"
    costs = {images: preview_cost(work, images, rounds=rounds) for images in profiles}
    for images, cost in costs.items():
        more = cost.seconds / cost.seconds_without - 1
        yield (
            f"{images:10} images together  {cost.came:3} of {cost.asked:3}  {cost.seconds:8.3f} "
            f"{cost.seconds_without:8.3f}  {more:6.1%}"
        )
    result["previews"] = {images: vars(cost) for images, cost in costs.items()}
    yield "\n" + json.dumps(result)


def _together_lines(images: int, timed: dict[str, Seconds]) -> Iterator[str]:
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
