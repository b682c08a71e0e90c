"""Open connections of a server: counted, and bounded in number."""

import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from uvicorn.server import ServerState

from serve.http.connections.limits import ConnectionLimits
from serve.http.errors import ApiError, Crowded

logger = logging.getLogger("focusdiff")

_LINGERING = 128  # connections over the limit that may wait until their refusal has been read
_SECONDS_BETWEEN_LINES = 60


class Connection(Protocol):
    """An open connection."""

    def give_way(self) -> None:
        """End for the sake of a new connection, unless an answer is under way."""


class Census(ServerState):
    """All open connections of a server.

    At the limit, a new connection takes the place of the one whose client has owed something for longest: the rest of a
    request, or another request. So slow clients cannot keep others out.

    Args:
        limits: bounds on connections.
        on_refusal: called with the HTTP status of each refusal.
    """

    def __init__(self, limits: ConnectionLimits, on_refusal: Callable[[int], None]) -> None:
        super().__init__()
        self.limits = limits
        self._on_refusal = on_refusal
        self._of_address: Counter[str] = Counter()
        self._owing: dict[Connection, None] = {}  # since the beginning of what is owed, longest first
        self._untold: Counter[int] = Counter()
        self._told = -float(_SECONDS_BETWEEN_LINES)

    @property
    def crowded(self) -> bool:
        """Whether there are too many connections to wait until a refusal has been read."""
        return len(self.connections) > self.limits.connections + _LINGERING

    def enter(self, address: str | None) -> ApiError | None:
        """Count a new connection, already among `connections`, and make room for it; returns why it is refused, if so.

        Args:
            address: of the client; None for a Unix socket.
        """
        place = self._place(address)
        if place is not None:
            self._of_address[place] += 1
            if self._of_address[place] > self.limits.per_address:
                return Crowded(f"over {self.limits.per_address} open connections of one address")
        if len(self.connections) > self.limits.connections:
            oldest = next(iter(self._owing), None)
            if oldest is None:
                return Crowded(f"over {self.limits.connections} open connections")
            self.settled(oldest)
            oldest.give_way()
        return None

    def leave(self, connection: Connection, address: str | None) -> None:
        """Forget a connection that has ended."""
        self.settled(connection)
        place = self._place(address)
        if place is not None:
            self._of_address[place] -= 1
            if not self._of_address[place]:
                del self._of_address[place]

    def owes(self, connection: Connection) -> None:
        """Note that the client has to send something, from now on."""
        self._owing.pop(connection, None)
        self._owing[connection] = None

    def settled(self, connection: Connection) -> None:
        """Note that the client has sent all it had to, or that the connection ends."""
        self._owing.pop(connection, None)

    def refused(self, status: int) -> None:
        """Count a refusal; a flood of them does not fill the log."""
        self._on_refusal(status)
        self._untold[status] += 1
        now = time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN_LINES:
            what = ", ".join(f"{count} with {status}" for status, count in sorted(self._untold.items()))
            logger.warning("refused connections: %s (told once a minute)", what)
            self._told = now
            self._untold.clear()

    def _place(self, address: str | None) -> str | None:
        """Key under which connections of an address are counted, None if they are not."""
        if address is None or not self.limits.per_address:
            return None
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return None
        if isinstance(found, ipaddress.IPv6Address):
            found = found.ipv4_mapped or found
        if any(found in network for network in self.limits.exempt):
            return None
        return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
