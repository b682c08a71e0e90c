"""The contract of every backend, tested with an engine in a thread, in a process, and behind a Triton server."""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from model.checkpoints.load import load
from model.errors import PromptError
from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.params import SamplingParams
from serve.backends.errors import NotRunning, QueueFull
from serve.backends.generation import Generation
from serve.backends.loader import ProcessLoader
from serve.backends.protocol import Backend
from serve.backends.triton.loader import TritonLoader
from serve.engine.events import Ended, Event, Finished, Preview, Queued, Started
from serve.engine.job import Job
from serve.settings.model_source import ModelSource
from serve.settings.server import Settings
from tests.thread_backend import ThreadBackend
from tests.tools import needs_triton
from tests.triton_process import TritonProcess

PARAMS = SamplingParams(guidance_scale=3, temperature=1, top_k=0)
QUEUE_LIMIT = 20
T = TypeVar("T")


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


@pytest.fixture(scope="module", params=["thread", "process", pytest.param("triton", marks=needs_triton)])
def backend(
    request: pytest.FixtureRequest, janus: Janus, small_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    """A backend with two slots and a queue of twenty images; the last test closes it."""
    source = ModelSource(name="small", source=str(small_folder))
    triton = None
    backend: Backend
    match request.param:
        case "thread":
            backend = ThreadBackend(janus, slots=2, queue_limit=QUEUE_LIMIT)
        case "process":
            settings = Settings(models=(source,), device="cpu", slots=2, queue=QUEUE_LIMIT)
            backend = ProcessLoader(settings, on_death=lambda: None)(source)
        case _:
            options = ("--slots", "2", "--queue", str(QUEUE_LIMIT))
            triton = TritonProcess(tmp_path_factory.mktemp("triton"), {"small": small_folder}, *options)
            triton.wait_until_ready()
            backend = TritonLoader(Settings(backend="triton", triton_url=(triton.url,)))(
                ModelSource(name="small", source="small")
            )
    yield backend
    backend.close()
    if triton is not None:
        assert triton.close() == 0, triton.log


def job(backend: Backend, prompt: str, *seeds: int, rows: tuple[int, ...] = (), deadline: float | None = None) -> Job:
    ids = backend.encode(prompt, name="prompt")
    return Job(ids, None, seeds, PARAMS, preview_rows=frozenset(rows), deadline=deadline)


async def submit(backend: Backend, one: Job) -> Generation:
    """Submit a job as soon as the queue has room; a Triton front hears of room from the servers' next heartbeat."""
    while True:
        try:
            return backend.submit(one)
        except QueueFull:
            await asyncio.sleep(0.01)


async def events_of(backend: Backend, one: Job) -> list[Event]:
    async with await submit(backend, one) as generation:
        return [event async for event in generation]


def wait(work: Awaitable[T]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(work, 120)

    return asyncio.run(bounded())


def test_info(backend: Backend, janus: Janus) -> None:
    info = backend.info
    assert (info.name, info.image_size, info.image_tokens, info.sampling) == ("small", 64, 64, janus.sampling)
    assert backend.state == "ready"


def test_the_error_of_a_bad_prompt_names_its_field(backend: Backend) -> None:
    with pytest.raises(PromptError, match="negative_prompt"):
        backend.encode(" ", name="negative_prompt")


def test_pictures_equal_those_of_the_reference_loop(backend: Backend, janus: Janus) -> None:
    events = wait(events_of(backend, job(backend, "a blue star", 3, 2**53 - 1)))
    codes = generate(
        janus, ["a blue star"] * 2, seeds=[3, 2**53 - 1], guidance_scale=3, temperature=1, top_k=0, top_p=1
    )
    pictures = ImageTokenizer(janus).images(codes).numpy()
    finished = {event.index: event for event in events if isinstance(event, Finished)}
    for index in (0, 1):
        assert finished[index].codes == tuple(codes[index].tolist())
        assert finished[index].picture.tobytes() == pictures[index].tobytes()


def test_events_come_in_order(backend: Backend) -> None:
    """Queued comes once and first; each image gives Started, Previews by rows, Finished; then Ended comes last."""
    events = wait(events_of(backend, job(backend, "a blue star", 1, 2, 3, rows=(2, 5))))
    assert isinstance(events[0], Queued)
    assert sum(isinstance(event, Queued) for event in events) == 1
    assert [event for event in events if isinstance(event, Ended)] == [events[-1]] == [Ended()]
    for index in range(3):
        mine = [event for event in events if getattr(event, "index", None) == index]
        assert [type(event) for event in mine] == [Started, Preview, Preview, Finished]
        assert [event.rows for event in mine if isinstance(event, Preview)] == [2, 5]


def test_a_full_queue_refuses_jobs_and_loses_no_accepted_one(backend: Backend) -> None:
    """A refusal says how many wait and how long; every accepted image is finished."""

    async def crowd() -> tuple[int, int]:
        ten = job(backend, "a blue star", *range(10))
        accepted = [await submit(backend, ten), await submit(backend, ten)]  # all the room there is
        refusals = []
        for seed in range(30):
            try:
                accepted.append(backend.submit(job(backend, "a blue star", seed)))
            except QueueFull as full:
                refusals.append(full)
        assert refusals
        assert all(full.waiting <= QUEUE_LIMIT and full.wait_seconds >= 0 for full in refusals)
        finished = [event for generation in accepted async for event in generation if isinstance(event, Finished)]
        return sum(generation.job.images for generation in accepted), len(finished)

    accepted, finished = wait(crowd())
    assert finished == accepted
    assert len(wait(events_of(backend, job(backend, "a blue star", 1)))) == 4  # there is room again


def test_cancelling_a_job_frees_its_place_in_the_queue(backend: Backend) -> None:
    """Five times two jobs of ten images, as many as may wait, are cancelled when their first image starts."""

    async def leave() -> list[Event]:
        for _ in range(5):
            first, second = (job(backend, "a blue star", *range(10)) for _ in range(2))
            async with await submit(backend, first) as generation, await submit(backend, second):
                async for event in generation:
                    if isinstance(event, Started):
                        break
        return await events_of(backend, job(backend, "a red heart", 7))

    events = wait(leave())
    assert isinstance(events[0], Queued)
    assert events[0].ahead <= 18  # at most the images of the cancelled jobs that had not started
    assert isinstance(events[-2], Finished)


def test_a_deadline_that_passes_fails_the_whole_job(backend: Backend) -> None:
    late = job(backend, "a blue star", 1, 2, 3, deadline=time.monotonic() + 0.01)
    events = wait(events_of(backend, late))
    last = events[-1]
    assert isinstance(last, Ended)
    assert last.cause == "deadline"
    assert isinstance(wait(events_of(backend, job(backend, "a blue star", 1)))[-2], Finished)


def test_closing_finishes_accepted_jobs_and_refuses_new_ones(backend: Backend) -> None:
    async def close() -> list[Event]:
        generations = [await submit(backend, job(backend, "a blue star", seed)) for seed in range(4)]
        closing = asyncio.create_task(asyncio.to_thread(backend.close))
        while backend.state == "ready":
            await asyncio.sleep(0.001)
        with pytest.raises(NotRunning, match="draining"):
            backend.submit(job(backend, "a blue star", 9))
        events = [event for generation in generations async for event in generation]
        await closing
        return events

    assert sum(isinstance(event, Finished) for event in wait(close())) == 4
