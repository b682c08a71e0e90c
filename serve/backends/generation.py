"""The events of one job on asyncio's side."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from serve.backends.model_info import ModelInfo
from serve.engine.events import Ended, Event
from serve.engine.job import Job


class Generation(AsyncIterator[Event]):
    """An accepted job and its events, `Ended` last. Leaving it (`async with`) before that cancels the job.

    Args:
        job: what is drawn.
        info: the model that draws it.
        cancel: drops the job in the engine.
    """

    def __init__(self, job: Job, info: ModelInfo, *, cancel: Callable[[], None]) -> None:
        self.job = job
        self.info = info
        self.seconds = 0.0  # from submission to the latest event
        self._submitted = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[float, Event]] = asyncio.Queue()
        self._cancel = cancel
        self._open = True

    def put(self, event: Event) -> None:
        """Add an event; from any thread."""
        with suppress(RuntimeError):  # the loop is closed: no one listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, (time.monotonic(), event))

    async def __anext__(self) -> Event:
        if not self._open:
            raise StopAsyncIteration
        moment, event = await self._events.get()
        self.seconds = moment - self._submitted
        if isinstance(event, Ended):
            self._open = False
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Cancel the job unless it is over."""
        if self._open:
            self._open = False
            self._cancel()
