"""A backend over Triton servers whose answers are scripted: what cannot be provoked in real ones."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from PIL import Image
from pydantic import BaseModel
from transformers import PreTrainedTokenizerFast

from model.errors import CheckpointError
from model.params import SamplingParams
from serve.backends.errors import NotRunning, QueueFull
from serve.backends.model_info import ModelInfo
from serve.backends.protocol import Backend
from serve.backends.triton.backend import TritonBackend
from serve.backends.triton.call import Answer, Lost, ModelLost, Refused
from serve.backends.triton.loader import TritonLoader
from serve.backends.triton.wire import Describe, Description, Draw, Pulse, Refusal, event_as_json
from serve.engine.events import Ended, Event, Finished, Preview, Queued, Started
from serve.engine.job import Job
from serve.settings.model_source import ModelSource
from serve.settings.server import Settings

PICTURE = Image.new("RGB", (8, 8))
Script = Callable[[Draw], Iterator[Event | Exception]]


def draws_well(draw: Draw) -> Iterator[Event | Exception]:
    yield Queued(0, 0.0)
    for index, _ in enumerate(draw.seeds):
        yield Started(index)
        for rows in sorted(draw.preview_rows):
            yield Preview(index, rows, PICTURE)
        yield Finished(index, PICTURE, (1, 2))
    yield Ended()


def dies_after(events: int) -> Script:
    """Draw until so many events are out, then lose the connection."""

    def script(draw: Draw) -> Iterator[Event | Exception]:
        for _, event in zip(range(events), draws_well(draw), strict=False):
            yield event
        yield Lost("the socket was closed")

    return script


def is_full(draw: Draw) -> Iterator[Event | Exception]:
    yield Refused(Refusal(cause="queue full", reason="9 images are waiting already"))


def says_that_the_engine_died(draw: Draw) -> Iterator[Event | Exception]:
    yield Queued(0, 0.0)
    yield Started(0)
    yield Ended("engine died", "the engine's process ended by SIGKILL")


@dataclass
class World:
    """Scripts by URL, one for each job that a server gets; the last one goes on. `seen` has those jobs.

    While `beats` is cleared no server has a beat, while `draws` is cleared none draws on after a job's first event.
    """

    scripts: dict[str, list[Script]] = field(default_factory=dict)
    descriptions: dict[str, Description] = field(default_factory=dict)
    pulses: dict[str, Pulse] = field(default_factory=dict)
    seen: list[tuple[str, Draw]] = field(default_factory=list)
    beats: threading.Event = field(default_factory=threading.Event)
    draws: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.beats.set()
        self.draws.set()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, small_tokenizer: PreTrainedTokenizerFast) -> World:
    world = World()
    info = ModelInfo("small", 8, 4, 16, SamplingParams())
    text = small_tokenizer.backend_tokenizer.to_str()
    usual = Description(info=info, tokenizer=text, max_prompt_tokens=256, queue=20)

    class Scripted:
        """Stands in for `serve.backends.triton.connection.Connection`."""

        def __init__(self, url: str, model: str) -> None:
            self.url = url

        async def ask(self, request: BaseModel) -> Answer:
            assert isinstance(request, Describe)
            if self.url == "nobody:1":
                raise ModelLost("Request for unknown model: 'small' is not found")
            return Answer(world.descriptions.get(self.url, usual).model_dump_json().encode(), None)

        async def stream(self, requests: AsyncIterator[BaseModel]) -> AsyncGenerator[Answer]:
            async for _ in requests:
                while not world.beats.is_set():
                    await asyncio.sleep(0.01)
                pulse = world.pulses.get(self.url, Pulse(ready=True, slots=2))
                pulse = pulse.model_copy(update={"model": world.descriptions.get(self.url, usual).digest})
                yield Answer(pulse.model_dump_json().encode(), None)

        async def draw(self, request: Draw) -> AsyncGenerator[Answer]:
            world.seen.append((self.url, request))
            scripts = world.scripts[self.url]
            script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
            for event in script(request):
                await asyncio.sleep(0)
                if isinstance(event, Exception):
                    raise event
                yield Answer(json.dumps(event_as_json(event)).encode(), getattr(event, "picture", None))
                while not world.draws.is_set():
                    await asyncio.sleep(0.01)

        def drop(self) -> None:
            pass

        async def close(self) -> None:
            pass

    monkeypatch.setattr("serve.backends.triton.server.Connection", Scripted)
    return world


def connect(world: World, **scripts: Sequence[Script]) -> TritonBackend:
    """Backend over one server for each name."""
    world.scripts = {f"{name}:1": list(those) for name, those in scripts.items()}
    backend = TritonLoader(Settings(backend="triton", triton_url=tuple(world.scripts)))(
        ModelSource(name="public", source="small")
    )
    until = time.monotonic() + 60
    while not all(server.pulse.ready for server in backend.servers):
        assert time.monotonic() < until
        time.sleep(0.01)
    return backend


def draw(backend: Backend, *seeds: int, rows: tuple[int, ...] = ()) -> list[Event]:
    job = Job([1, 2, 3, 4], None, seeds, SamplingParams(), preview_rows=frozenset(rows))

    async def collect() -> list[Event]:
        async with backend.submit(job) as generation:
            return [event async for event in generation]

    return asyncio.run(asyncio.wait_for(collect(), 60))


def test_a_job_goes_on_elsewhere_with_what_is_missing_and_repeats_nothing(world: World) -> None:
    """The first server fails after one of three images and three previews of the second."""
    # Queued, then Started, three previews and Finished of the first image, then four events of the second
    backend = connect(world, a=[dies_after(10), draws_well], b=[draws_well])
    events = draw(backend, 5, 6, 7, rows=(1, 2, 3))
    backend.close()
    (first, whole), (second, rest) = world.seen
    assert {first, second} == {"a:1", "b:1"}
    assert (whole.seeds, rest.seeds) == ((5, 6, 7), (6, 7))
    assert sum(isinstance(event, Queued) for event in events) == 1
    assert events[-1] == Ended()
    for index in range(3):
        kinds = [type(event) for event in events if getattr(event, "index", None) == index]
        assert kinds == [Started, Preview, Preview, Preview, Finished]


def test_a_job_that_every_server_fails_with_is_given_up_after_two_starts(world: World) -> None:
    """It may be what makes them fail; the third server is spared."""
    fails: list[Script] = [says_that_the_engine_died]
    backend = connect(world, a=fails, b=fails, c=fails)
    events = draw(backend, 1)
    backend.close()
    assert events[-1] == Ended("engine died", "the engine's process ended by SIGKILL")
    assert len({url for url, _ in world.seen}) == len(world.seen) == 2


def test_a_job_that_never_started_tries_every_server(world: World) -> None:
    fails: list[Script] = [dies_after(1)]
    backend = connect(world, a=fails, b=fails, c=[draws_well])
    for seed in range(3):  # a and b are suspected until their next beat
        assert draw(backend, seed)[-1] == Ended()
    backend.close()


def test_a_full_server_is_passed_over_and_only_full_servers_refuse(world: World) -> None:
    backend = connect(world, a=[is_full], b=[draws_well])
    assert {draw(backend, seed)[-1] for seed in range(4)} == {Ended()}
    backend.close()
    backend = connect(world, a=[is_full], b=[is_full])
    assert draw(backend, 1)[-1] == Ended("queue full", "9 images are waiting already")
    backend.close()


def test_jobs_are_refused_at_once_when_other_clients_fill_the_queues(world: World) -> None:
    """Two queues of 20 images, with 39 waiting in all: one image fits, two do not."""
    for name, waiting in (("a:1", 20), ("b:1", 19)):
        world.pulses[name] = Pulse(ready=True, slots=2, waiting=waiting, wait_seconds=8.0)
    backend = connect(world, a=[draws_well], b=[draws_well])
    assert draw(backend, 1)[-1] == Ended()
    with pytest.raises(QueueFull) as full:
        draw(backend, 1, 2)
    assert full.value.waiting == 39
    assert full.value.wait_seconds == pytest.approx(8.0 / 39)
    backend.close()


def test_images_of_ours_that_ended_since_a_beat_make_room_at_once(world: World) -> None:
    """At the beat all of a queue of 20 waited, ten of ours and ten of others; ours end before the next beat."""
    backend = connect(world, a=[draws_well])
    (server,) = backend.servers
    job = Job([1, 2, 3, 4], None, tuple(range(10)), SamplingParams())

    async def draw_amid_a_beat() -> None:
        world.draws.clear()
        async with backend.submit(job) as generation:
            assert isinstance(await anext(generation), Queued)
            world.pulses["a:1"] = Pulse(ready=True, slots=2, waiting=20)
            while server.pulse.waiting < 20:
                await asyncio.sleep(0.01)
            world.beats.clear()
            with pytest.raises(QueueFull):
                backend.submit(replace(job, seeds=(1,)))
            world.draws.set()
            assert [event async for event in generation][-1] == Ended()
        with pytest.raises(QueueFull, match="10 images are waiting"):
            backend.submit(replace(job, seeds=tuple(range(11))))
        async with backend.submit(job) as generation:
            assert [event async for event in generation][-1] == Ended()
        assert server.pulse.waiting == 20

    asyncio.run(asyncio.wait_for(draw_amid_a_beat(), 60))
    backend.close()


def test_a_server_with_pictures_of_another_size_is_not_used(
    world: World, small_tokenizer: PreTrainedTokenizerFast
) -> None:
    info = ModelInfo("small", 16, 4, 16, SamplingParams())
    text = small_tokenizer.backend_tokenizer.to_str()
    world.descriptions["b:1"] = Description(info=info, tokenizer=text, max_prompt_tokens=256, queue=20)
    backend = connect(world, a=[draws_well], b=[draws_well])
    assert backend.stats.slots == 2
    draw(backend, 1)
    alike = "a:1" if backend.info.image_size == 8 else "b:1"  # the first to describe its model sets the size
    assert {url for url, _ in world.seen} == {alike}
    backend.close()


def test_the_public_name_is_the_fronts(world: World) -> None:
    backend = connect(world, a=[draws_well])
    assert backend.info.name == "public"
    backend.close()


def test_a_model_that_no_server_has_is_refused(world: World) -> None:
    loader = TritonLoader(Settings(backend="triton", triton_url=("nobody:1",)))
    with pytest.raises(CheckpointError, match="no model 'small' there: nobody:1: Request for unknown model"):
        loader(ModelSource(name="public", source="small"))


def test_a_job_that_is_cancelled_before_it_begins_is_forgotten(world: World) -> None:
    backend = connect(world, a=[draws_well])

    async def leave() -> None:
        for seed in range(50):
            backend.submit(Job([1, 2, 3, 4], None, (seed,), SamplingParams())).leave()

    asyncio.run(leave())
    assert (backend.stats.running, backend.stats.waiting) == (0, 0)
    backend.close()  # waits for all tasks
    assert backend._tasks == {}


@pytest.mark.parametrize(("end", "cause"), [("abandon", "stopping"), ("kill", "engine died")])
def test_accepted_jobs_end_with_the_reason_when_the_front_stops(world: World, end: str, cause: str) -> None:
    def hangs(draw: Draw) -> Iterator[Event | Exception]:
        yield Queued(0, 0.0)
        while True:
            yield Started(0)  # and never finishes

    backend = connect(world, a=[hangs])

    async def collect() -> Event:
        async with backend.submit(Job([1, 2, 3, 4], None, (1,), SamplingParams())) as generation:
            assert isinstance(await anext(generation), Queued)
            getattr(backend, end)()
            return [event async for event in generation][-1]

    ended = asyncio.run(asyncio.wait_for(collect(), 60))
    assert isinstance(ended, Ended)
    assert ended.cause == cause
    assert (backend.stats.running, backend.stats.waiting) == (0, 0)
    backend.close()


def test_more_full_servers_than_attempts_are_all_asked(world: World) -> None:
    full: dict[str, list[Script]] = {name: [is_full] for name in "abcdefghijkl"}
    backend = connect(world, **full)
    assert draw(backend, 1)[-1] == Ended("queue full", "9 images are waiting already")
    assert len(world.seen) == 12
    backend.close()


def test_a_server_that_loads_another_checkpoint_is_described_again(
    world: World, small_tokenizer: PreTrainedTokenizerFast
) -> None:
    backend = connect(world, a=[draws_well])
    text = small_tokenizer.backend_tokenizer.to_str()

    def serve(size: int, guidance: float) -> None:
        info = ModelInfo("small", size, 4, 16, SamplingParams(guidance_scale=guidance))
        world.descriptions["a:1"] = Description(info=info, tokenizer=text, max_prompt_tokens=256, queue=20)

    serve(8, guidance=7.0)
    wait_until(lambda: backend.info.sampling.guidance_scale == 7.0)
    assert draw(backend, 1)[-1] == Ended()
    serve(16, guidance=7.0)
    wait_until(lambda: backend.state == "unreachable" and "other prompts or pictures" in refusal(backend))
    backend.close()


def refusal(backend: Backend) -> str:
    with pytest.raises(NotRunning) as refused:
        backend.submit(Job([1, 2, 3, 4], None, (1,), SamplingParams()))
    return str(refused.value)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_server_whose_answers_cannot_be_read_is_not_ready(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = connect(world, a=[draws_well])

    def fail(content: bytes) -> Pulse:
        raise KeyError(content)

    refusals: list[str] = []

    class RefusedMeanwhile(logging.Handler):
        """A job of another thread, just when the server's state changes."""

        def emit(self, record: logging.LogRecord) -> None:
            if "its answer cannot be read" in record.getMessage():
                refusals.append(refusal(backend))

    handler = RefusedMeanwhile()
    monkeypatch.setattr("serve.backends.triton.wire.Pulse.model_validate_json", fail)
    logging.getLogger("focusdiff").addHandler(handler)
    try:
        wait_until(lambda: bool(refusals))
    finally:
        logging.getLogger("focusdiff").removeHandler(handler)
    assert all("its answer cannot be read: KeyError" in text for text in [*refusals, refusal(backend)])
    monkeypatch.undo()
    backend.close()
