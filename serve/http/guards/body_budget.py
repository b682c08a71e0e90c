"""Bytes of request bodies that are held for all clients together."""

import asyncio
import time
from contextlib import suppress

from starlette.types import Message, Receive

_FREE = 64 * 1024  # bytes of each body that do not count: prompts pass, however much others send


class Body:
    """Body of one request.

    size: bytes read.
    complete: whether nothing more can come.
    counted: bytes that its budget holds for it.
    gave_way: whether it was ended for the sake of others.
    """

    def __init__(self) -> None:
        self.size = 0
        self.complete = False
        self.counted = 0
        self.gave_way = False
        self._waiting: asyncio.Timeout | None = None

    async def read(self, receive: Receive) -> Message:
        """Next message of the request; an empty one if the body gives way meanwhile."""
        if self.complete:
            return await receive()
        message: Message = {"type": "http.request", "body": b"", "more_body": True}
        if not self.gave_way:
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as self._waiting:
                    message = await receive()
            self._waiting = None
        self.size += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return message

    def give_way(self) -> None:
        """Wait for no more of it."""
        self.gave_way = True
        if self._waiting is not None:
            self._waiting.reschedule(0)


class BodyBudget:
    """Bytes of the bodies of all requests, from their arrival to the end of the request.

    When they reach the limit, bodies that have been incomplete for too long make way, oldest first, so that slow clients
    cannot keep others out. If there are none, whoever sends more is refused.

    Args:
        mib: the limit; the first 64 KiB of each body do not count.
        seconds: for which an incomplete body need not make way.
    """

    def __init__(self, mib: float, seconds: float) -> None:
        self.mib = mib
        self.seconds = seconds
        self.held = 0  # bytes
        self._limit = int(mib * 2**20)
        self._incomplete: dict[Body, float] = {}  # and since when; the oldest first

    def hold(self, body: Body) -> bool:
        """Count what has been read of a body; returns False if it must be refused."""
        if body.gave_way:
            return False
        counted = max(0, body.size - _FREE)
        more = counted - body.counted
        while self.held + more > self._limit and (slow := self._slow(body)) is not None:
            self.release(slow)
            slow.give_way()
        if self.held + more > self._limit:
            return False
        self.held += more
        body.counted = counted
        if body.complete:
            self._incomplete.pop(body, None)
        elif counted:
            self._incomplete.setdefault(body, time.monotonic())
        return True

    def release(self, body: Body) -> None:
        """Forget a body, which may be forgotten already."""
        self.held -= body.counted
        body.counted = 0
        self._incomplete.pop(body, None)

    def _slow(self, other: Body) -> Body | None:
        """The oldest incomplete body, if it has to make way for `other`."""
        oldest = next(iter(self._incomplete), None)
        if oldest is None or oldest is other or time.monotonic() - self._incomplete[oldest] < self.seconds:
            return None
        return oldest
