"""Answers that come event by event (server-sent events), and jobs whose events come as one stream."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TypeVar

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from serve.drawing import Drawing
from serve.errors import ApiError, GenerationFailed
from serve.events import Event
from serve.schemas import StreamEvent

logger = logging.getLogger("focusdiff")
K = TypeVar("K")
_KEEPALIVE_SECONDS = 15.0  # proxies close what is silent for longer


class EventStream(EventSourceResponse):
    """Sends events as they come, and gives the jobs behind them back when the client leaves.

    The response, not the generator, owns the jobs: a client may be gone before the generator begins.

    Args:
        drawings: the jobs that `events` reads from.
        seconds: after which a reader that does not read is given up.
        events: what is sent. An ApiError among them becomes an `error` event, the last.
    """

    def __init__(self, drawings: Sequence[Drawing], events: AsyncIterator[StreamEvent], *, seconds: float) -> None:
        super().__init__(_lines(events), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._drawings = drawings
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as is wanted."""
        async with AsyncExitStack() as owned:
            for drawing in self._drawings:
                await owned.enter_async_context(drawing.generation)
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


async def merged(drawings: Mapping[K, Drawing]) -> AsyncIterator[tuple[K, Event]]:
    """The events of several jobs as they come, each with its job's key.

    Raises:
        ApiError: a picture of any of them will not come.
    """
    queue: asyncio.Queue[tuple[K, Event] | Exception | None] = asyncio.Queue()

    async def read(key: K, drawing: Drawing) -> None:
        try:
            async for event in drawing.events():
                queue.put_nowait((key, event))
            queue.put_nowait(None)
        except Exception as error:  # raised again where the events are read
            queue.put_nowait(error)

    readers = [asyncio.ensure_future(read(key, drawing)) for key, drawing in drawings.items()]
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
