"""The seam between HTTP and whatever makes pictures, and its first implementation."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from model.decoder_weights import let_go
from model.janus import Janus
from model.params import SamplingParams
from serve.engine import Engine
from serve.events import Event, Failed, Finished
from serve.request import Job
from serve.worker import State, Worker


@dataclass(frozen=True)
class ModelInfo:
    """What the API needs to know of a model."""

    name: str
    image_size: int
    image_tokens: int
    codebook_size: int
    recipe: SamplingParams
    int8: bool = False


@dataclass(frozen=True)
class Stats:
    """Images being drawn, images that wait, and guided images that can be drawn at once."""

    running: int
    waiting: int
    slots: int


class Generation(AsyncIterator[Event]):
    """The events of one job, up to the end of its last image; to leave it before that is to cancel the job."""

    def __init__(
        self, events: "asyncio.Queue[tuple[float, Event]]", *, images: int, cancel: Callable[[], None]
    ) -> None:
        self.moment = 0.0  # at which the last event came from the engine, on the monotonic clock
        self._events = events
        self._unended = images
        self._cancel = cancel

    async def __anext__(self) -> Event:
        if self._unended == 0:
            raise StopAsyncIteration
        self.moment, event = await self._events.get()
        if isinstance(event, Failed) and event.index is None:
            self._unended = 0
        elif isinstance(event, Finished | Failed):
            self._unended -= 1
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Nobody wants the rest: the job is cancelled unless it is over."""
        if self._unended:
            self._unended = 0
            self._cancel()


class Backend(Protocol):
    """Makes pictures from jobs."""

    @property
    def info(self) -> ModelInfo:
        """The model behind it."""

    @property
    def state(self) -> State:
        """Only what is ready takes jobs."""

    @property
    def stats(self) -> Stats:
        """How busy it is."""

    def encode(self, prompt: str, *, name: str) -> list[int]:
        """Token ids of a prompt; raises PromptError, which names the field."""

    def submit(self, job: Job) -> Generation:
        """Accept a job; called on the event loop, and returns at once.

        Raises:
            QueueFull: too many images wait.
            NotRunning: it takes no jobs any more.
        """

    def give_up(self) -> None:
        """Fail what was accepted and has not come."""

    def close(self) -> None:
        """Finish what was accepted and let go of the device."""


class LocalBackend:
    """One model in this process, drawn by an engine in a thread of its own.

    With `int8` (see `model.decoder.Decoder`) the model's own matrices are freed, and it serves nobody else.
    `held_bytes` is what weights, tables made of them and cache take from then on.
    """

    def __init__(
        self,
        janus: Janus,
        *,
        images: int = 16,
        queue_limit: int = 256,
        int8: bool = False,
        on_death: Callable[[], None] = lambda: None,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        self._janus = janus
        self._slots = images
        self._int8 = int8
        self._on_close = on_close
        engine = Engine(janus, images=images, int8=int8)
        if int8:
            let_go(janus.network)
        self.held_bytes = engine.held_bytes
        self._worker = Worker(engine, queue_limit=queue_limit, on_death=on_death)

    @property
    def info(self) -> ModelInfo:
        """The model behind it."""
        janus = self._janus
        return ModelInfo(
            janus.name, janus.image_size, janus.image_tokens, janus.codebook_size, janus.recipe, self._int8
        )

    @property
    def state(self) -> State:
        """Of the engine's thread."""
        return self._worker.state

    @property
    def stats(self) -> Stats:
        """Of the engine's thread, a moment ago."""
        running, waiting = self._worker.load
        return Stats(running, waiting, self._slots)

    def encode(self, prompt: str, *, name: str) -> list[int]:
        """Token ids of a prompt."""
        return self._janus.encode(prompt, name=name)

    def submit(self, job: Job) -> Generation:
        """Hand a job to the engine's thread."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[float, Event]] = asyncio.Queue()

        def listen(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(events.put_nowait, (time.monotonic(), event))

        ticket = self._worker.submit(job, listen)
        return Generation(events, images=len(job.seeds), cancel=lambda: self._worker.cancel(ticket))

    def give_up(self) -> None:
        """Fail what was accepted and has not come."""
        self._worker.give_up()

    def close(self) -> None:
        """Finish what was accepted; blocks until then."""
        self._worker.close()
        self._on_close()
