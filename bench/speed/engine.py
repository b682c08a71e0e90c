"""Timings of the engine and of other loops on the same weights.

All take turns in every round, so that other load on the machine affects all equally. Seconds are wall time.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.speed.baselines import with_a_growing_cache, with_transformers
from bench.speed.stopwatch import Stopwatch
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.params import SamplingParams
from pairs.picture_file import encode
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished, Preview
from serve.engine.job import Job
from serve.engine.previews import preview_rows
from serve.engine.twins import Twins

_PROMPT = "three red circles and a blue star"
_PROMPT_IDS = list(range(100, 126))  # for models without a tokenizer


@dataclass(frozen=True)
class Workload:
    """A model, a prompt as token ids, and sampling settings that all loops support."""

    janus: Janus
    prompt: list[int]
    params: SamplingParams

    @classmethod
    def of(cls, janus: Janus) -> "Workload":
        """At the checkpoint's guidance scale and temperature 1; no top-k and top-p, which the published loop lacks."""
        ids = [janus.ids.bos, *_PROMPT_IDS, janus.ids.begin_of_image]
        prompt = janus.encode(_PROMPT) if janus.tokenizer else ids
        return cls(janus, prompt, janus.sampling.override(temperature=1.0, top_k=0, top_p=1.0))

    def job(self, seeds: Sequence[int], *, previews: int = 0) -> Job:
        """Job with one image per seed and `previews` previews of each."""
        rows = preview_rows(previews, self.janus.grid)
        return Job(self.prompt, None, tuple(seeds), self.params, preview_rows=rows)


@dataclass(frozen=True)
class Timing:
    """Seconds for one batch of pictures: to draw the codes, and to decode them to pixels."""

    codes: float
    pixels: float

    @property
    def whole(self) -> float:
        """Seconds from prompt to pixels."""
        return self.codes + self.pixels


def seeds_of(turn: int, images: int) -> range:
    """Seeds of a round, other ones in each: the engine draws sooner what it drew before with the same seed."""
    return range(turn * images, (turn + 1) * images)


def time_loop(draw: Callable[..., Tensor], work: Workload, seeds: Sequence[int]) -> Timing:
    """Time a loop that returns codes, then transformers' image tokenizer."""
    image_tokenizer = ImageTokenizer(work.janus, native=False)
    _settle(work.janus)
    started = time.perf_counter()
    codes = draw(work.janus, work.prompt, seeds, work.params)
    _settle(work.janus)
    middle = time.perf_counter()
    image_tokenizer.images(codes)
    return Timing(middle - started, time.perf_counter() - middle)


def time_engine(engine: Engine, work: Workload, seeds: Sequence[int]) -> Timing:
    """Time one job on the engine, with an image for each seed."""
    stopwatch = Stopwatch()
    _settle(work.janus)
    started = time.perf_counter()
    with stopwatch.timing(pixels=(engine.image_tokenizer, "images")):
        list(draw(engine, [work.job(seeds)]))
    whole = time.perf_counter() - started
    return Timing(whole - stopwatch.seconds["pixels"], stopwatch.seconds["pixels"])


def time_single_places(engine: Engine, work: Workload, seeds: Sequence[int]) -> Timing:
    """`time_engine` without Jacobi decoding."""
    with single_places(engine):
        return time_engine(engine, work, seeds)


@contextmanager
def single_places(engine: Engine) -> Iterator[None]:
    """Let an engine draw with one place a step inside the context: the same weights in the same memory.

    Its pictures are not remembered: windows would take their codes as guesses.
    """
    kept = engine._windows, engine._twins
    engine._windows, engine._twins = None, Twins()
    try:
        yield
    finally:
        engine._windows, engine._twins = kept


def _settle(janus: Janus) -> None:
    if janus.device.type == "cuda":
        torch.cuda.synchronize()


def side_by_side(work: Workload, images: int, *, rounds: int, alone: bool = False) -> dict[str, Timing]:
    """Median times of the engine and, unless `alone`, of the other loops, for images that arrive together.

    "single places" is the engine without Jacobi decoding; "no compiler" with PyTorch's operations only, as on machines
    without a C compiler.
    """
    engine, plain = (Engine(work.janus, slots=images, native=native) for native in (True, False))
    ways: dict[str, Callable[[range], Timing]] = {"engine": partial(time_engine, engine, work)}
    if engine.decoder.is_native or engine.decoder.kernels:
        ways["single places"] = partial(time_single_places, engine, work)
    if engine.decoder.is_native:
        small = Engine(work.janus, slots=images, quantization="int8")
        ways["int8"] = partial(time_engine, small, work)
    if work.janus.device.type == "cpu":
        ways["no compiler"] = partial(time_engine, plain, work)
    if not alone:
        ways["transformers"] = partial(time_loop, with_transformers, work)
        ways["growing cache"] = partial(time_loop, with_a_growing_cache, work)
    taken: dict[str, list[Timing]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            taken[name].append(way(seeds_of(turn, images)))
    kept = {name: times[1:] or times for name, times in taken.items()}  # the first round is a warm-up
    return {
        name: Timing(statistics.median(t.codes for t in times), statistics.median(t.pixels for t in times))
        for name, times in kept.items()
    }


@dataclass(frozen=True)
class Load:
    """Result of random arrivals: images per second, and percentiles of seconds from arrival to picture."""

    rate: float
    p50: float
    p95: float


def poisson(work: Workload, *, slots: int, arrivals: int, per_second: float) -> Load:
    """Draw single images that arrive at exponential intervals, the same for every number of slots."""
    gaps = np.random.default_rng(0).exponential(1 / per_second, arrivals)
    due = np.cumsum(gaps) - gaps[0]
    engine = Engine(work.janus, slots=slots)
    arrived: dict[Job, float] = {}
    started = time.perf_counter()

    def arrive() -> Iterator[Job | None]:
        for seed, moment in enumerate(due.tolist()):
            while (early := moment - (time.perf_counter() - started)) > 0:
                if engine.idle:
                    time.sleep(early)
                else:
                    yield None
            job = work.job([seed])
            arrived[job] = moment
            yield job

    took = [time.perf_counter() - started - arrived[job] for job, _ in draw(engine, arrive())]
    whole = time.perf_counter() - started
    return Load(arrivals / whole, float(np.percentile(took, 50)), float(np.percentile(took, 95)))


@dataclass(frozen=True)
class PreviewCost:
    """Cost of previews for jobs of one image each, drawn together.

    made, requested: previews made and requested.
    seconds, seconds_without: wall time with and without previews.
    """

    made: int
    requested: int
    seconds: float
    seconds_without: float

    @property
    def more(self) -> float:
        """Share by which previews make the drawing longer."""
        return self.seconds / self.seconds_without - 1


def preview_cost(work: Workload, images: int, *, rounds: int, each: int = 3) -> PreviewCost:
    """Median times with and without previews, measured alternately."""
    engine = Engine(work.janus, slots=images)
    taken: dict[int, list[float]] = {0: [], each: []}
    made = 0
    for turn in range(rounds):
        for number, (previews, times) in enumerate(taken.items()):
            _settle(work.janus)
            started = time.perf_counter()
            jobs = [work.job([seed], previews=previews) for seed in seeds_of(2 * turn + number, images)]
            events = [event for _, event in draw(engine, jobs)]
            times.append(time.perf_counter() - started)
            if previews:
                made = sum(isinstance(event, Preview) for event in events)
    with_, without = (statistics.median(taken[n][1:] or taken[n]) for n in (each, 0))
    return PreviewCost(made, each * images, with_, without)


def profile(work: Workload, images: int) -> dict[str, float]:
    """Seconds spent in each part of the engine for images that arrive together.

    "own" is the rest of the engine's time; "png" is encoding the pictures afterwards.
    """
    engine = Engine(work.janus, slots=images)
    list(draw(engine, [work.job(seeds_of(0, images))]))  # warm-up
    stopwatch = Stopwatch()
    started = time.perf_counter()
    with stopwatch.timing(
        prefill=(engine.decoder, "prefill"),
        step=(engine.decoder, "step"),
        sample=(engine, "_decode_and_sample"),
        pixels=(engine.image_tokenizer, "images"),
    ):
        drawn = list(draw(engine, [work.job(seeds_of(1, images))]))
    whole = time.perf_counter() - started
    parts = dict(stopwatch.seconds)
    parts["own"] = whole - sum(parts.values())
    started = time.perf_counter()
    for _, event in drawn:
        assert isinstance(event, Finished)
        encode(event.picture, {})
    return parts | {"png": time.perf_counter() - started}
