"""Pictures that are drawn beside the steps, as on a GPU, and prompts that are read ahead."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import pytest
from torch import Tensor

from bench.cuda.micro import micro_janus
from model.decoder import Decoder
from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.kv_cache import Prefix
from serve.engine.engine import Engine
from serve.engine.events import Ended, Event, Finished, Preview, Started
from serve.engine.job import Job, JobState
from serve.engine.prefixes import PrefixReader
from serve.engine.side_stream import SideStream, Work
from serve.engine.side_work import Events, SideWork
from serve.engine.slot import Slot
from tests.drawing import GREEDY, SETTINGS, codes_of, job, reference_codes, run

T = TypeVar("T")


class LateWork(Work[T]):
    """Work that is done when somebody has asked some times whether it is over, or waits for it."""

    def __init__(self, compute: Callable[[], T], asked: int) -> None:
        self._compute, self._left = compute, asked

    @cached_property
    def result(self) -> T:
        return self._compute()

    @property
    def over(self) -> bool:
        self._left -= 1
        return self._left < 0

    @property
    def seconds(self) -> float:
        return 0.0


class LateStream(SideStream):
    """Work is done late: what it reads must not have been changed by then."""

    def __init__(self, asked: int) -> None:
        self._asked = asked
        self.begun = 0

    def run(self, compute: Callable[[], T]) -> Work[T]:
        self.begun += 1
        return LateWork(compute, self._asked)


@pytest.fixture(scope="module")
def prompts(golden: Mapping[str, Tensor]) -> list[list[int]]:
    return [golden[f"prompt{i}.input_ids"].tolist() for i in range(3)]


def draw(engine: Engine, jobs: Sequence[Job], *, then: Callable[[int], None] = lambda step: None) -> list[Events]:
    """Events of each job; they are all submitted at once."""
    states = [engine.submit(one) for one in jobs]
    events = {state: Events() for state in states}
    step = 0
    while not engine.idle:
        for state, event in engine.step():
            events[state].append((state, event))
        then(step)
        step += 1
    return [events[state] for state in states]


def test_late_pictures_are_those_of_their_codes(deepseek: Janus, prompts: list[list[int]]) -> None:
    """One slot, so that the next image overwrites what belonged to the last while its picture is still to be drawn.

    At the end several are still to be drawn."""
    engine = Engine(deepseek, slots=1)
    engine._side_work = SideWork(LateStream(2 * deepseek.image_tokens))
    jobs = [Job(prompt, None, (3,), SETTINGS[2], preview_rows=frozenset({2})) for prompt in prompts]
    for one, events in zip(jobs, draw(engine, jobs), strict=True):
        codes = generate(deepseek, [one.prompt], seeds=[3], **one.params.as_dict())  # type: ignore[arg-type]
        assert [type(event) for _, event in events[1:]] == [Preview, Finished, Ended]
        finished = events[2][1]
        assert isinstance(finished, Finished)
        assert list(finished.codes) == codes[0].tolist()
        assert np.array_equal(np.asarray(finished.picture), ImageTokenizer(deepseek).images(codes)[0].numpy())


def test_nothing_comes_of_a_job_that_was_cancelled_while_its_picture_was_drawn(
    deepseek: Janus, prompts: list[list[int]]
) -> None:
    """The second job is drawn meanwhile."""
    engine = Engine(deepseek, slots=1, jacobi=False)
    engine._side_work = SideWork(LateStream(10))
    dropped, kept = (engine.submit(job(prompts[number], GREEDY, number)) for number in range(2))
    events: dict[JobState, list[str]] = {dropped: [], kept: []}
    step = 0
    while not engine.idle:
        for state, event in engine.step():
            events[state].append(type(event).__name__)
        step += 1
        if step == deepseek.image_tokens + 1:
            assert [slot.state for slot in engine.scheduler.running] == [kept]
            engine.cancel(dropped)
    assert events == {dropped: ["Started"], kept: ["Started", "Finished", "Ended"]}


def test_a_job_that_is_late_while_its_picture_is_drawn_fails_once(deepseek: Janus, prompts: list[list[int]]) -> None:
    now = [0.0]
    engine = Engine(deepseek, slots=1, jacobi=False, clock=lambda: now[0])
    engine._side_work = SideWork(LateStream(3))

    def pass_time(step: int) -> None:
        now[0] += 1

    late = Job(prompts[0], None, (1,), GREEDY, deadline=deepseek.image_tokens + 0.5)
    events, _ = draw(engine, [late, job(prompts[1], GREEDY, 1)], then=pass_time)
    assert [event.cause for _, event in events if isinstance(event, Ended)] == ["deadline"]
    assert not any(isinstance(event, Finished) for _, event in events)


def late_reader(engine: Engine, *, asked: int, ahead: int) -> LateStream:
    """Let an engine's prompts be read late."""
    stream = LateStream(asked)
    engine._prefixes = PrefixReader(engine.decoder, engine.janus.ids, stream, ahead=ahead)
    return stream


@pytest.mark.parametrize("ahead", [0, 20, 256])
@pytest.mark.parametrize("asked", [1, 7, 1000])
def test_images_whose_prompts_are_read_late_are_the_same(
    deepseek: Janus, prompts: list[list[int]], asked: int, ahead: int
) -> None:
    """Guided, unguided and with negative prompts, they start in order of arrival."""
    engine = Engine(deepseek, slots=2)
    late_reader(engine, asked=asked, ahead=ahead)
    arrivals = []
    for i in range(9):
        negative = prompts[0] if i % 4 == 0 else None
        arrivals.append((4 * i, job(prompts[i % 3], SETTINGS[i % 5], i, i + 9, negative=negative)))
    starts: list[JobState] = []
    admit = engine.scheduler.admit

    def watched(ready: Callable[[JobState], bool]) -> list[Slot]:
        slots = admit(ready)
        starts.extend(slot.state for slot in slots)
        return slots

    engine.scheduler.admit = watched  # type: ignore[method-assign]
    drawn = run(engine, arrivals)
    assert [state.job for state in starts] == [one for _, one in arrivals for _ in range(2)]
    assert list(map(codes_of, drawn)) == [reference_codes(deepseek, one) for _, one in arrivals]


@pytest.mark.parametrize(("ahead", "late"), [(256, 0), (1, 0), (0, 5)])
def test_what_runs_does_not_wait_for_a_prompt(deepseek: Janus, prompts: list[list[int]], ahead: int, late: int) -> None:
    """Two slots, and reading takes five steps. The first image does not wait for steps; those after it wait as if alone.

    A prompt that was read ahead lets its image begin as soon as there is a slot."""
    engine = Engine(deepseek, slots=2, jacobi=False)
    late_reader(engine, asked=5, ahead=ahead)
    tokens = deepseek.image_tokens
    assert tokens > 10
    begun, ended = [], []
    states = [engine.submit(job(prompts[0], GREEDY, 0))]
    for step in range(100):
        if step == 2:
            states += [engine.submit(job(prompts[i], GREEDY, i)) for i in (1, 2)]
        for state, event in engine.step():
            if isinstance(event, Started):
                begun.append((states.index(state), step))
            if isinstance(event, Finished):
                ended.append((states.index(state), step))
    assert begun == [(0, 0), (1, 7), (2, tokens + late)]
    assert ended == [(number, step + tokens - 1) for number, step in begun]


def test_jobs_that_are_dropped_while_their_prompts_are_read_leave_nothing(
    deepseek: Janus, prompts: list[list[int]]
) -> None:
    """One reading is under way at a time, so that only the first of them is read in vain."""
    engine = Engine(deepseek, slots=2, jacobi=False)
    stream = late_reader(engine, asked=10, ahead=0)
    first = engine.submit(job(prompts[0], GREEDY, 0))
    engine.step()
    for number in range(4):
        dropped = engine.submit(job(prompts[1], GREEDY, number))
        engine.step()
        engine.cancel(dropped)
        assert dropped.prefixes is None
    assert stream.begun == 2
    other = job(prompts[2], GREEDY, 2)
    kept = engine.submit(other)
    events: dict[JobState, list[Event]] = {first: [], kept: []}
    while not engine.idle:
        for state, event in engine.step():
            events[state].append(event)
    assert stream.begun == 3
    assert codes_of(events[kept]) == reference_codes(deepseek, other)


def test_prompts_of_waiting_jobs_are_read_ahead() -> None:
    """Seven prompts of 4 tokens with negative ones: 16 tokens hold two jobs, and a call that has nothing to read is not made."""
    decoder = Decoder(micro_janus(), native=False)
    reader = PrefixReader(decoder, micro_janus().ids, SideStream(), ahead=16)
    jobs = [JobState(Job([1, 5, 6, 7 + i], [1, 8, 9, 7 + i], (0,), SETTINGS[2])) for i in range(7)]
    calls: list[int] = []
    prefill = decoder.prefill

    def counted(prompts: Sequence[Sequence[int]]) -> list[Prefix]:
        calls.append(len(prompts))
        return prefill(prompts)

    decoder.prefill = counted  # type: ignore[method-assign]
    for number, state in enumerate(jobs):
        reader.begin([state], jobs[number:])
        assert reader.ready(state, wait=False)
    assert calls == [4, 4, 4, 2]
    (expected,) = prefill([[1, 5, 6, 9]])
    prefixes = jobs[2].prefixes
    assert prefixes is not None
    assert np.allclose(prefixes[0].keys, expected.keys, atol=1e-5)
