"""The client as a reader of answers."""

import asyncio

from serve.http.connections.limits import BYTES_A_SECOND
from serve.http.connections.timer import Timer


class Reader:
    """Ends a connection whose client reads less than 4 KiB a second while it is watched.

    Args:
        transport: of the connection.
        loop: its event loop.
        seconds: over which reading is measured.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds
        self._timer = Timer(loop)
        self._unread = 0  # bytes

    def watch(self) -> None:
        """Watch from now on."""
        self._unread = self._transport.get_write_buffer_size()
        self._timer.start(self._seconds, self._check)

    def stop(self) -> None:
        """Watch no longer."""
        self._timer.stop()

    def _check(self) -> None:
        if self._unread - self._transport.get_write_buffer_size() < self._seconds * BYTES_A_SECOND:
            self._transport.abort()
        else:
            self.watch()
