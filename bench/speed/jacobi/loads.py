"""Pictures drawn with windows of one place and with Jacobi decoding, in turn."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from bench.speed.engine import Workload, single_places
from bench.speed.jacobi.recording import Recording, codes_of, pair_of
from bench.speed.jacobi.replay import replaying
from bench.speed.jacobi.step_cost import StepSeconds, StepTimer
from bench.speed.stopwatch import Stopwatch
from model.janus import Janus
from pairs.paircomp import Case
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job

Codes = dict[tuple[int, ...], tuple[int, ...]]  # seed and prompt → codes of the picture

_SEEDS = 100_000  # of a load; others have other ones: the engine remembers its pictures by seed
_PICTURES = 16  # drawn in a round of a model that takes next to no time for one


@dataclass(frozen=True)
class Load:
    """Images that are drawn together.

    name: as tables show it.
    images: their number.
    jobs: the jobs of a batch, by its number; seeds differ between batches.
    twins: jobs that are drawn before, apart.
    """

    name: str
    images: int
    jobs: Callable[[int], list[Job]]
    twins: Callable[[int], list[Job]] | None = None

    @property
    def twin(self) -> bool:
        """Whether the twins of the images are drawn before."""
        return self.twins is not None


def shipped_loads(janus: Janus, cases: Sequence[Case]) -> Iterator[Load]:
    """Loads of a model with a tokenizer: prompts are those of pairs."""

    def pair(seed: int) -> tuple[Job, Job]:
        return pair_of(janus, cases[seed % len(cases)], seed=seed)

    def firsts(load: int, images: int) -> Callable[[int], list[Job]]:
        return lambda batch: [pair(_SEEDS * load + batch * images + image)[0] for image in range(images)]

    def group(batch: int) -> list[Job]:
        first = 8 * (_SEEDS + batch)
        return [replace(pair(first)[0], seeds=tuple(range(first, first + 8)))]

    yield Load("one image", 1, firsts(0, 1))
    yield Load("one, twin drawn before", 1, firsts(1, 1), lambda batch: [pair(_SEEDS + batch)[1]])
    yield Load("a pair", 2, lambda batch: [*pair(2 * _SEEDS + batch)])
    yield Load("4 images", 4, firsts(3, 4))
    yield Load("16 images", 16, firsts(4, 16))
    yield Load("8 of one prompt", 8, group)


@dataclass(frozen=True)
class Drawn:
    """One way of drawing a load.

    codes: seconds for the codes of a batch.
    whole: seconds until its pictures are there.
    own: seconds for the codes that neither the decoder's steps nor the sampler take.
    choosing: seconds of these in which the widths of windows were chosen, and what steps took was noted for that.
    steps: of a batch.
    """

    codes: float
    whole: float
    own: float
    choosing: float
    steps: float

    @property
    def own_per_step(self) -> float:
        """Seconds of a step that neither the decoder nor the sampler takes."""
        return self.own / self.steps


@dataclass(frozen=True)
class Both:
    """Rounds of a load with single places and with Jacobi decoding.

    costs: of steps, measured in each round before either way.
    """

    plain: list[Drawn] = field(default_factory=list)
    jacobi: list[Drawn] = field(default_factory=list)
    costs: list[StepSeconds] = field(default_factory=list)

    def ratios(self, part: str) -> list[float]:
        """Single places ÷ Jacobi, of each round."""
        return [getattr(a, part) / getattr(b, part) for a, b in zip(self.plain, self.jacobi, strict=True)]

    @property
    def choosing(self) -> float:
        """Share of the time for codes that choosing widths takes."""
        return statistics.median(drawn.choosing / drawn.codes for drawn in self.jacobi)


def side_by_side(engine: Engine, load: Load, timer: StepTimer, *, rounds: int) -> Both:
    """Draw a load in alternated rounds, after one that is not counted.

    Raises:
        AssertionError: the codes differ.
    """
    batches, both = max(1, _PICTURES // load.images), Both()

    def plain(turn: int) -> Codes:
        with single_places(engine):
            return _draw(engine, load, range(turn * batches, (turn + 1) * batches), both.plain)

    def jacobi(turn: int) -> Codes:
        return _draw(engine, load, range(turn * batches, (turn + 1) * batches), both.jacobi)

    for turn in range(rounds + 1):
        first, second = _in_turn(plain, jacobi, turn, timer, both)
        assert first == second, f"{load.name}: Jacobi decoding draws other codes"
    return Both(both.plain[1:], both.jacobi[1:], both.costs[1:])


def replayed_side_by_side(
    engine: Engine, work: Workload, recorded: Recording, timer: StepTimer, *, images: int, twin: bool, rounds: int
) -> Both:
    """Draw `images` images of a model with random weights in alternated rounds, with as many codes a window as recorded.

    Args:
        twin: whether the images are taken for ones whose twins were drawn before, as the recorded ones must be.
    """
    both = Both()
    load = Load("", images, lambda batch: [work.job(range(batch * images, (batch + 1) * images))])

    def plain(turn: int) -> Codes:
        with single_places(engine):
            return _draw(engine, load, [turn], both.plain)

    def jacobi(turn: int) -> Codes:
        engine._twins.clear()
        if twin:
            for seed in range(turn * images, (turn + 1) * images):
                engine._twins.add(seed, (0,) * engine.janus.image_tokens)
        with replaying(engine, recorded, prompt_tokens=len(work.prompt)):
            return _draw(engine, load, [turn], both.jacobi)

    for turn in range(rounds):
        _in_turn(plain, jacobi, turn, timer, both)
    return both


def _in_turn(
    plain: Callable[[int], Codes], jacobi: Callable[[int], Codes], turn: int, timer: StepTimer, both: Both
) -> list[Codes]:
    """Draw both ways, and time steps before each: the speed of a machine that others use, too, changes within minutes."""
    found = []
    for way in (plain, jacobi)[:: -1 if turn % 2 else 1]:
        timer.turn()
        found.append(way(turn))
    both.costs.append(timer.take())
    return found


def _draw(engine: Engine, load: Load, numbers: Sequence[int], taken: list[Drawn]) -> Codes:
    """Draw batches one after another, and note the mean over them."""
    codes, steps, whole, stopwatch = Codes(), 0, 0.0, Stopwatch()
    timed: dict[str, tuple[object, str]] = {
        "pixels": (engine.image_tokenizer, "images"),
        "step": (engine.decoder, "step"),
        "sample": (engine, "_decode_and_sample"),
    }
    if windows := engine._windows:
        timed |= {"choose": (windows, "choose"), "note": (windows, "note"), "cost": (windows.costs, "add")}

    def count(_: int) -> None:
        nonlocal steps
        steps += 1

    for number in numbers:
        if load.twins is not None:
            codes_of(engine, load.twins(number))
        jobs = load.jobs(number)
        begun = time.perf_counter()
        with stopwatch.timing(**timed):
            found = list(draw(engine, jobs, on_step=count))
        whole += time.perf_counter() - begun
        codes |= {
            (job.seeds[event.index], *job.prompt): event.codes for job, event in found if isinstance(event, Finished)
        }
    batches, seconds = len(numbers), stopwatch.seconds
    choosing = seconds["choose"] + seconds["note"] + seconds["cost"]
    drawn = whole - seconds["pixels"]
    own = drawn - seconds["step"] - seconds["sample"]
    taken.append(Drawn(drawn / batches, whole / batches, own / batches, choosing / batches, steps / batches))
    return codes
