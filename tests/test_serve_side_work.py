"""Pictures that are drawn beside the steps, as on a GPU, and prompts that are read ahead."""

from collections.abc import Callable, Mapping, Sequence

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
from serve.engine.events import Ended, Finished, Preview
from serve.engine.job import Job, JobState
from serve.engine.prefixes import PrefixReader
from serve.engine.side_work import Compute, Events, SideWork, Then
from tests.drawing import GREEDY, SETTINGS, job


class LateWork(SideWork):
    """Work that is begun only after some steps: what it reads must not have been changed by them."""

    def __init__(self, steps: int) -> None:
        super().__init__(lambda: 0.0)
        self._steps = steps
        self._late: list[tuple[int, Compute, Then]] = []

    @property
    def idle(self) -> bool:
        return not self._late

    def add(self, compute: Compute, then: Then) -> None:
        self._late.append((self._steps, compute, then))

    def collect(self, *, wait: bool) -> Events:
        events: Events = []
        self._late = [(left - 1, compute, then) for left, compute, then in self._late]
        while self._late and (wait or self._late[0][0] < 0):
            _, compute, then = self._late.pop(0)
            events += then(compute(), 0.0)
            wait = False
        return events


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
    engine._side_work = LateWork(2 * deepseek.image_tokens)
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
    engine._side_work = LateWork(10)
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
    engine._side_work = LateWork(3)

    def pass_time(step: int) -> None:
        now[0] += 1

    late = Job(prompts[0], None, (1,), GREEDY, deadline=deepseek.image_tokens + 0.5)
    events, _ = draw(engine, [late, job(prompts[1], GREEDY, 1)], then=pass_time)
    assert [event.cause for _, event in events if isinstance(event, Ended)] == ["deadline"]
    assert not any(isinstance(event, Finished) for _, event in events)


def test_prompts_of_waiting_jobs_are_read_ahead() -> None:
    """Seven prompts of 4 tokens with negative ones: 16 tokens hold two jobs, and a call that has nothing to read is not made."""
    decoder = Decoder(micro_janus(), native=False)
    reader = PrefixReader(decoder, micro_janus().ids, ahead=16)
    jobs = [JobState(Job([1, 5, 6, 7 + i], [1, 8, 9, 7 + i], (0,), SETTINGS[2])) for i in range(7)]
    calls: list[int] = []
    prefill = decoder.prefill

    def counted(prompts: Sequence[Sequence[int]]) -> list[Prefix]:
        calls.append(len(prompts))
        return prefill(prompts)

    decoder.prefill = counted  # type: ignore[method-assign]
    for number, state in enumerate(jobs):
        if state.prefixes is None:
            reader.read([state], jobs[number + 1 :])
    assert calls == [4, 4, 4, 2]
    (expected,) = prefill([[1, 5, 6, 9]])
    prefixes = jobs[2].prefixes
    assert prefixes is not None
    assert np.allclose(prefixes[0].keys, expected.keys, atol=1e-5)
