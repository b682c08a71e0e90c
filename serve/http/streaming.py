"""Server-sent events, and the events of several jobs merged into one stream."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TypeVar

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from serve.backends.generation import Generation
from serve.engine.events import Event
from serve.http.errors import ApiError, GenerationFailed
from serve.http.generations import counted
from serve.http.metrics import Metrics
from serve.http.schemas import StreamEvent

logger = logging.getLogger("focusdiff")
K = TypeVar("K")
_KEEPALIVE_SECONDS = 15.0  # proxies close connections that stay silent for longer


class EventStream(EventSourceResponse):
    """Response that streams events and cancels their jobs when the client disconnects.

    It owns the jobs, not the generator of events: a client may disconnect before the generator starts.

    Args:
        generations: jobs that `events` reads from.
        events: events to send. An ApiError that they raise is sent as the last event, `error`.
        seconds: time limit of the stream, even if the client has not read it.
    """

    def __init__(
        self, generations: Sequence[Generation], events: AsyncIterator[StreamEvent], *, seconds: float
    ) -> None:
        super().__init__(_lines(events), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._generations = generations
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end, the client disconnects or the time limit passes."""
        async with AsyncExitStack() as owned:
            for generation in self._generations:
                await owned.enter_async_context(generation)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await super().__call__(scope, receive, send)


async def _lines(events: AsyncIterator[StreamEvent]) -> AsyncIterator[bytes]:
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=_KEEPALIVE_SECONDS)
            if not done:
                yield KEEPALIVE_COMMENT
                continue
            event = pending.result()
            if event is None:
                return
            yield format_sse_event(event=event.type, data_str=event.model_dump_json())
            pending = asyncio.ensure_future(anext(events, None))
    except ApiError as error:
        yield _error(error)
    except Exception:
        logger.exception("a stream broke")
        yield _error(GenerationFailed("something broke here; the server's log says what"))
    finally:
        pending.cancel()


def _error(error: ApiError) -> bytes:
    return format_sse_event(event="error", data_str=error.body.model_dump_json())


async def merged(generations: Mapping[K, Generation], metrics: Metrics) -> AsyncIterator[tuple[K, Event]]:
    """Yield the events of several jobs as they arrive, each with its job's key.

    Raises:
        ApiError: an image failed, or a job ended early.
    """
    queue: asyncio.Queue[tuple[K, Event] | Exception | None] = asyncio.Queue()

    async def read(key: K, generation: Generation) -> None:
        try:
            async for event in counted(generation, metrics):
                queue.put_nowait((key, event))
            queue.put_nowait(None)
        except Exception as error:  # raised again below, where the queue is read
            queue.put_nowait(error)

    readers = [asyncio.ensure_future(read(key, generation)) for key, generation in generations.items()]
    try:
        unended = len(readers)
        while unended:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                unended -= 1
            else:
                yield item
    finally:
        for reader in readers:
            reader.cancel()
