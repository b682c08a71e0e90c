"""The seam between HTTP and whatever makes pictures; and what draws by an engine, wherever its loop runs.

Imports no torch: the process that answers has none.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from transformers import PreTrainedTokenizerBase

from model.errors import PromptError
from model.params import SamplingParams
from model.prompt import encode_prompt
from serve.dispatcher import Dispatcher, Link, State
from serve.events import Event, Failed, Finished
from serve.request import Job


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

    def kill(self) -> None:
        """End it at once, whatever it does; what was accepted fails."""

    def close(self) -> None:
        """Finish what was accepted and let go of the device."""


@dataclass(frozen=True)
class Loaded:
    """What an engine's loop says of its model once it is loaded.

    `held_bytes` is what weights, tables made of them and cache take from then on.
    """

    info: ModelInfo
    tokenizer: PreTrainedTokenizerBase | None
    max_prompt_tokens: int
    slots: int
    held_bytes: int


class EngineBackend:
    """One model, drawn by an engine whose loop is at the other end of a link.

    Args:
        loaded: what it draws.
        link: nobody else uses it.
        queue_limit: the most images that may wait.
        on_death: called once, on another thread, when the loop has ended before it was to.
        on_close: called when it has let go of the engine.
    """

    def __init__(
        self,
        loaded: Loaded,
        link: Link,
        *,
        queue_limit: int = 256,
        on_death: Callable[[], None] = lambda: None,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        self._loaded = loaded
        self._on_close = on_close
        self._dispatcher = Dispatcher(link, queue_limit=queue_limit, on_death=on_death)

    @property
    def info(self) -> ModelInfo:
        """The model behind it."""
        return self._loaded.info

    @property
    def held_bytes(self) -> int:
        """What weights, tables made of them and cache take."""
        return self._loaded.held_bytes

    @property
    def state(self) -> State:
        """Of the engine."""
        return self._dispatcher.state

    @property
    def stats(self) -> Stats:
        """Of the engine, a moment ago."""
        running, waiting = self._dispatcher.load
        return Stats(running, waiting, self._loaded.slots)

    def encode(self, prompt: str, *, name: str) -> list[int]:
        """Token ids of a prompt."""
        if self._loaded.tokenizer is None:
            raise PromptError(f"{name} is text, but {self.info.name} has no tokenizer; name one with --tokenizer")
        return encode_prompt(self._loaded.tokenizer, prompt, name=name, limit=self._loaded.max_prompt_tokens)

    def submit(self, job: Job) -> Generation:
        """Hand a job to the engine."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[float, Event]] = asyncio.Queue()

        def listen(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(events.put_nowait, (time.monotonic(), event))

        ticket = self._dispatcher.submit(job, listen)
        return Generation(events, images=len(job.seeds), cancel=lambda: self._dispatcher.cancel(ticket))

    def give_up(self) -> None:
        """Fail what was accepted and has not come."""
        self._dispatcher.give_up()

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._dispatcher.kill()

    def close(self) -> None:
        """Finish what was accepted; blocks until then."""
        self._dispatcher.close()
        self._on_close()
