"""Requests that are being drawn, for progress and interruption."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from PIL import Image

from serve.engine.events import Event, Finished, Preview

T = TypeVar("T")


class Drawing:
    """A request that is being drawn.

    Args:
        images: number of its pictures.
        rows: rows of codes of each.
    """

    def __init__(self, images: int, rows: int) -> None:
        self.images = images
        self.rows = rows
        self.started = time.time()
        self.preview: Image.Image | None = None  # the latest
        self.interrupted = asyncio.Event()
        self._finished: dict[int, Image.Image] = {}
        self._previews: dict[int, Preview] = {}  # of pictures that are not finished

    @property
    def pictures(self) -> dict[int, Image.Image]:
        """Finished pictures, and previews of the others that have one, by index and in its order."""
        known = {index: preview.picture for index, preview in self._previews.items()} | self._finished
        return dict(sorted(known.items()))

    @property
    def finished(self) -> int:
        """Number of finished pictures."""
        return len(self._finished)

    @property
    def done_rows(self) -> int:
        """Rows of codes that are known to be drawn, of all pictures."""
        return self.finished * self.rows + sum(preview.rows for preview in self._previews.values())

    @property
    def share(self) -> float:
        """Share of the rows that are drawn, 0 to 1."""
        return self.done_rows / (self.images * self.rows)

    @property
    def seconds_left(self) -> float:
        """Estimate from the time that the drawn rows have taken; 0 while none is known to be drawn."""
        share = self.share
        return (time.time() - self.started) * (1 - share) / share if share else 0.0

    async def follow(self, events: AsyncIterator[Event]) -> None:
        """Take events until they end or the request is interrupted."""
        await self.until_interrupted(self._take(events))

    async def until_interrupted(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work`; if the request is interrupted first, cancel it and return None."""
        interruption, working = asyncio.ensure_future(self.interrupted.wait()), asyncio.ensure_future(work)
        try:
            await asyncio.wait({interruption, working}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            interruption.cancel()
            working.cancel()

    async def _take(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            if isinstance(event, Preview):
                self._previews[event.index] = event
                self.preview = event.picture
            elif isinstance(event, Finished):
                self._previews.pop(event.index, None)
                self._finished[event.index] = event.picture
                self.preview = event.picture


class Drawings:
    """Drawings by caller: front ends ask for "the" progress and mean their own."""

    def __init__(self) -> None:
        self._by_caller: dict[str, list[Drawing]] = {}

    @contextmanager
    def running(self, caller: str, drawing: Drawing) -> Iterator[Drawing]:
        """List a drawing while it runs."""
        own = self._by_caller.setdefault(caller, [])
        own.append(drawing)
        try:
            yield drawing
        finally:
            own.remove(drawing)
            if not own:
                self._by_caller.pop(caller, None)

    def latest(self, caller: str) -> Drawing | None:
        """The caller's drawing that began last."""
        own = self._by_caller.get(caller)
        return own[-1] if own else None

    def interrupt(self, caller: str) -> None:
        """Interrupt all drawings of a caller."""
        for drawing in self._by_caller.get(caller, ()):
            drawing.interrupted.set()
