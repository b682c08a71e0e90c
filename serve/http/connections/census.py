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

_SECONDS_BETWEEN_LINES = 60


class Connection(Protocol):
    """An open connection."""

    def give_way(self) -> None:
        """End for the sake of a new connection, unless an answer is under way."""


class Census(ServerState):
    """All open connections of a server.

    At the limit, a new connection takes the place of one that is only still open so that its refusal can be read, or of the
    one whose client has owed something for longest: the rest of a request, or another request. So slow clients cannot
    keep others out.

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
        self._lingering: dict[Connection, None] = {}  # refused, longest first
        self._closing: set[Connection] = set()  # gave way while they lingered; still among `connections` for a moment
        self._untold: Counter[int] = Counter()
        self._told = -float(_SECONDS_BETWEEN_LINES)

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
        over = len(self.connections) - len(self._closing) - self.limits.connections
        while over > 0 and self._lingering:
            oldest = next(iter(self._lingering))
            self.settled(oldest)
            self._closing.add(oldest)
            oldest.give_way()
            over -= 1
        if over > 0:
            if not self._owing:
                return Crowded(f"over {self.limits.connections} open connections")
            oldest = next(iter(self._owing))
            self.settled(oldest)
            oldest.give_way()  # and lingers, at most until another connection comes
        return None

    def leave(self, connection: Connection, address: str | None) -> None:
        """Forget a connection that has ended."""
        self.settled(connection)
        self._closing.discard(connection)
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
        self._lingering.pop(connection, None)

    def lingers(self, connection: Connection) -> None:
        """Note that the connection is only still open so that the client can read what was sent."""
        self.settled(connection)
        self._lingering[connection] = None

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
