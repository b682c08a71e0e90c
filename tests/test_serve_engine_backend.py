"""`EngineBackend`: its counts of images, and the end of every job when the engine fails."""

import asyncio
import threading
from collections.abc import Mapping
from pickle import UnpicklingError

import pytest
import torch
from torch import Tensor

from model.janus import Janus
from model.params import SamplingParams
from serve.backends.engine_backend import EngineBackend
from serve.backends.errors import NotRunning
from serve.backends.generation import Generation
from serve.backends.messages import Command, Died, Loaded, Report
from serve.backends.model_info import ModelInfo
from serve.engine.events import Ended, Event, Finished
from serve.engine.job import Job
from tests.thread_backend import ThreadBackend

PARAMS = SamplingParams(guidance_scale=2, temperature=1, top_k=0)


@pytest.fixture(scope="module")
def prompt(golden: Mapping[str, Tensor]) -> list[int]:
    ids: list[int] = golden["prompt0.input_ids"].tolist()
    return ids


async def events_of(generation: Generation) -> list[Event]:
    return [event async for event in generation]


async def all_events(*generations: Generation) -> list[list[Event]]:
    return await asyncio.wait_for(asyncio.gather(*map(events_of, generations)), 60)


@pytest.mark.parametrize("defect", ["exception", "out of memory"])
def test_a_step_that_fails_ends_every_job_with_a_reason(
    deepseek: Janus, prompt: list[int], monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    deaths: list[str] = []
    died = threading.Event()

    def on_death() -> None:
        deaths.append(backend.state)
        died.set()

    backend = ThreadBackend(deepseek, slots=2, queue_limit=100, on_death=on_death)
    step, count = backend.engine.decoder.step, 0

    def break_down(*arguments: object) -> Tensor:
        nonlocal count
        count += 1
        if count == 5:
            if defect == "out of memory":
                return torch.empty(2**60)  # the allocator refuses it
            raise ZeroDivisionError("planted")
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backend.engine.decoder, "step", break_down)

    async def ask() -> None:
        # ten images: two run, eight wait
        jobs = [Job(prompt, None, (number, number + 100), PARAMS) for number in range(5)]
        for events in await all_events(*map(backend.submit, jobs)):
            last = events[-1]
            assert isinstance(last, Ended)
            assert last.cause == "engine died"
            assert ("RuntimeError" if defect == "out of memory" else "ZeroDivisionError") in last.reason
        assert died.wait(60)
        with pytest.raises(NotRunning, match="dead"):
            backend.submit(Job(prompt, None, (1,), PARAMS))

    asyncio.run(ask())
    assert deaths == ["dead"]
    backend.close()  # does not hang


def test_the_queue_is_counted_in_images_and_returns_to_zero(deepseek: Janus, prompt: list[int]) -> None:
    backend = ThreadBackend(deepseek, slots=1, queue_limit=1000)

    async def ask() -> list[list[Event]]:
        generations = [backend.submit(Job(prompt, None, (1, 2, 3), PARAMS)) for _ in range(4)]
        stats = backend.stats
        assert 11 <= stats.running + stats.waiting <= 12  # an image that gets its slot now may be in neither count
        for number in (1, 3, 3):
            generations[number].leave()
        return await all_events(*generations)

    heard = asyncio.run(ask())
    assert [sum(isinstance(event, Finished) for event in events) for events in heard] == [3, 0, 3, 0]
    backend.close()
    assert (backend.stats.running, backend.stats.waiting) == (0, 0)


def test_the_places_of_cancelled_jobs_are_free_at_once(
    deepseek: Janus, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs are cancelled while the engine hangs in a step: the queue is empty before the engine knows of it."""
    backend = ThreadBackend(deepseek, slots=1, queue_limit=5)
    step, hanging = backend.engine.decoder.step, threading.Event()
    monkeypatch.setattr(backend.engine.decoder, "step", lambda *arguments: hanging.wait() and step(*arguments))

    async def ask() -> None:
        first = backend.submit(Job(prompt, None, (1,), PARAMS))
        while not backend.stats.running:
            await asyncio.sleep(0.001)
        second = backend.submit(Job(prompt, None, (1, 2, 3, 4, 5), PARAMS))
        first.leave()
        second.leave()
        assert (backend.stats.running, backend.stats.waiting) == (0, 0)
        third = backend.submit(Job(prompt, None, (1, 2, 3, 4, 5), PARAMS))
        hanging.set()
        (events,) = await all_events(third)
        assert sum(isinstance(event, Finished) for event in events) == 5

    asyncio.run(asyncio.wait_for(ask(), 60))
    backend.close()


class Garbled:
    """A link whose messages cannot be read."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.ended = False

    def send(self, command: Command) -> None:
        self.asked.set()

    def receive(self) -> Report | Died | None:
        self.asked.wait()
        raise UnpicklingError("planted")

    def kill(self) -> None:
        self.ended = True

    def close(self) -> None: ...


def test_an_engine_whose_messages_cannot_be_read_is_killed(prompt: list[int]) -> None:
    link, died = Garbled(), threading.Event()
    loaded = Loaded(ModelInfo("x", 64, 64, 64, PARAMS), None, 256, 1, 0)
    backend = EngineBackend(loaded, link, queue_limit=10, on_death=died.set)

    async def ask() -> list[Event]:
        (events,) = await all_events(backend.submit(Job(prompt, None, (1, 2), PARAMS)))
        return events

    assert asyncio.run(ask()) == [Ended("engine died", "a message of the engine cannot be read: UnpicklingError")]
    assert died.wait(60)
    stats = backend.stats
    assert (backend.state, stats.running, stats.waiting, link.ended) == ("dead", 0, 0, True)
    backend.close()
