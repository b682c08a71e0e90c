"""Bounds on the connections of a server."""

import ipaddress
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

logger = logging.getLogger("focusdiff")

_OTHER_FILES = 256  # descriptors of everything but connections: models, stored pictures, pipes, calls to other servers
BYTES_A_SECOND = 4 * 1024  # a body has a second more for each of these, and answers must be read as fast


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds on connections, and on each request before it is handed to the application.

    header_bytes: of the request line and all headers; also of trailers.
    headers: their number.
    header_seconds: time to send them, from the connection's first byte or the request's.
    body_seconds: time to send a body, besides a second for each 4 KiB; also time to read 4 KiB for each of its seconds.
    connections: open ones.
    per_address: open ones of one address (of an IPv6 address: of its /64 network), 0 for any number.
    exempt: addresses and networks to which `per_address` does not apply, as those of proxies.
    """

    header_bytes: int
    headers: int
    header_seconds: float
    body_seconds: float
    connections: int
    per_address: int
    exempt: frozenset[ipaddress.IPv4Network | ipaddress.IPv6Network]


def networks(addresses: str | Iterable[str]) -> frozenset[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Networks of this machine's loopback addresses and of uvicorn's `forwarded_allow_ips`, where * is every address."""
    named = addresses.split(",") if isinstance(addresses, str) else addresses
    found = {ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("::1")}
    for name in map(str.strip, named):
        if name == "*":
            found |= {ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")}
        with suppress(ValueError):  # uvicorn also allows names of Unix sockets
            found.add(ipaddress.ip_network(name, strict=False))
    return frozenset(found)


def fitting(connections: int) -> int:
    """Number of connections, at most `connections`, for which the process may open files.

    Raises the soft limit on open files if the hard limit allows: a server that meets it cannot accept anything any more.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # some systems have a lower limit than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    found = max(soft - _OTHER_FILES, soft // 4)
    logger.warning("connections: at most %d, not %d: this process may open only %d files", found, connections, soft)
    return found
