"""A request while it comes: its size so far, and its deadlines."""

import asyncio
from collections.abc import Callable
from typing import Literal, NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl

from serve.http.connections.limits import BYTES_A_SECOND, ConnectionLimits
from serve.http.connections.timer import Timer
from serve.http.errors import ApiError, ClientTooSlow, HeadersTooLarge


class Progress(NamedTuple):
    """Part of a request that comes next, and bytes of its body that the parser has handed over.

    A request has a head, the request line and headers, and a body. Between requests the connection is idle.
    """

    part: Literal["head", "body", "idle"]
    body: int


class Incoming:
    """Bounds on one request after the other of a connection; a timer runs while something of one is missing.

    It keeps no reference to the connection's protocol while no timer runs, so that an ended connection is freed at once.

    Args:
        limits: the bounds.
        loop: event loop of the connection.
        flow: tells whether reading is paused because the application is slow, not the client.
    """

    def __init__(self, limits: ConnectionLimits, loop: asyncio.AbstractEventLoop, flow: FlowControl) -> None:
        self._limits = limits
        self._loop = loop
        self._flow = flow
        self.progress = Progress("head", 0)
        self._unparsed = 0  # bytes of an unfinished head, or in a row that were no body
        self._fields = self._headers = 0  # bytes and number of the fields that the parser has handed over
        self._body_began = 0.0
        self._timer = Timer(loop)

    @property
    def part(self) -> Literal["head", "body", "idle"]:
        return self.progress.part

    @property
    def begun(self) -> bool:
        """Whether anything has come of a head."""
        return self._unparsed > 0

    def expect_head(self, on_late: Callable[[ApiError], None]) -> None:
        """Expect the head of another request; `on_late` is called with a refusal if it takes too long."""
        self.progress = Progress("head", 0)
        self._unparsed = self._fields = self._headers = 0
        self._timer.start(self._limits.header_seconds, lambda: self._head_is_late(on_late))

    def add_field(self, size: int, *, headers: int) -> None:
        """Count bytes of a request line, of headers or of trailers, and the number of the latter two.

        Raises:
            HeadersTooLarge: too many.
        """
        self._fields += size
        self._headers += headers
        if self._fields > self._limits.header_bytes or self._headers > self._limits.headers:
            raise self._too_large

    def expect_body(self, on_late: Callable[[ApiError], None]) -> None:
        """Expect the body, as the head is complete; `on_late` is called with a refusal if it takes too long."""
        self.progress = Progress("body", 0)
        self._unparsed = self._fields = self._headers = 0
        self._body_began = self._loop.time()
        self._timer.start(self._limits.body_seconds, lambda: self._check_body(on_late))

    def add_body(self, size: int) -> None:
        """Count bytes of the body."""
        self._unparsed = 0
        self.progress = Progress("body", self.progress.body + size)

    def add_unparsed(self, size: int) -> None:
        """Count bytes that the parser has read without any progress.

        It hands over headers only when they are whole, and spaces and chunk extensions never.

        Raises:
            HeadersTooLarge: too many.
        """
        self._unparsed += size
        if self._unparsed > self._limits.header_bytes:
            raise self._too_large

    def complete(self) -> None:
        """Expect nothing: the request is complete."""
        self.progress = Progress("idle", 0)
        self.stop()

    def stop(self) -> None:
        """Have no deadline."""
        self._timer.stop()

    @property
    def _too_large(self) -> HeadersTooLarge:
        limits = self._limits
        return HeadersTooLarge(
            f"a request line and its headers may have {limits.header_bytes / 1024:g} KiB and {limits.headers} headers"
        )

    def _head_is_late(self, on_late: Callable[[ApiError], None]) -> None:
        on_late(ClientTooSlow(f"the headers were not complete after {self._limits.header_seconds:g} seconds"))

    def _check_body(self, on_late: Callable[[ApiError], None]) -> None:
        seconds = self._limits.body_seconds + self.progress.body / BYTES_A_SECOND
        left = self._body_began + seconds - self._loop.time()
        if left > 0:
            self._timer.start(left, lambda: self._check_body(on_late))
        elif self._flow.read_paused:
            self._timer.start(self._limits.body_seconds, lambda: self._check_body(on_late))
        else:
            on_late(ClientTooSlow(f"the body was not complete after {seconds:.0f} seconds"))
