"""Bounds on connections, heads and bodies, over real sockets; deadlines are a second or two."""

import dataclasses
import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address

import pytest

from serve.http.connections.limits import ConnectionLimits, networks
from serve.http.connections.protocol import BoundedProtocol
from tests.bounded_server import LARGE, LIMITS, BoundedServer, rest, serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def served(request: pytest.FixtureRequest) -> Iterator[BoundedServer]:
    with serving(loop=request.param) as server:
        yield server
        server.until_connections(0)


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and message of an answer that says it is OpenAI's error object, and that the connection ends."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.decode().lower().split("\r\n")
    assert {"content-type: application/json", "connection: close", f"content-length: {len(body)}"} <= set(headers)
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(status.split()[1]), error["message"]


def trickle(served: BoundedServer, beginning: bytes, piece: bytes) -> bytes:
    """Send a beginning and then a piece ten times a second, for ever; returns what the server answers."""
    answer = b""
    with served.connect() as connection:
        connection.sendall(beginning)
        connection.settimeout(0.1)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(TimeoutError):
                received = connection.recv(2**16)
                if not received:
                    return answer
                answer += received
            with suppress(OSError):
                connection.sendall(piece)
    raise AssertionError("the connection is still open")


def flood(served: BoundedServer, beginning: bytes, piece: bytes) -> bytes:
    """Send a beginning and then pieces until the server has had enough; returns what it answers."""
    with served.connect() as connection:
        connection.sendall(beginning)
        with suppress(OSError):
            for _ in range(2**23 // len(piece)):
                connection.sendall(piece)
        with suppress(OSError):
            return rest(connection)
    return b""


def test_a_silent_connection_is_closed_without_an_answer(served: BoundedServer) -> None:
    """Browsers open connections before they have a request."""
    assert served.ask(b"") == b""


def test_a_head_that_does_not_end_is_answered_408(served: BoundedServer) -> None:
    assert refusal(served.ask(b"GET / HTTP/1.1\r\nHost: x\r\n")) == (
        408,
        "the headers were not complete after 1 seconds",
    )
    assert refusal(trickle(served, b"", b"\r\n"))[0] == 408
    assert refusal(trickle(served, b"GET / HTTP/1.1\r\nA: ", b"a"))[0] == 408


def test_a_second_head_that_does_not_end_is_answered_408(served: BoundedServer) -> None:
    with served.connect() as connection:
        connection.sendall(GET.replace(b"close", b"keep-alive"))
        time.sleep(0.2)
        connection.sendall(b"GET / HT")
        first, second, third = rest(connection).split(b"HTTP/1.1 ")
    assert (first, second[:3]) == (b"", b"200")
    assert refusal(b"HTTP/1.1 " + third)[0] == 408


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (b"GET / HTTP/1.1\r\nA: ", b"a" * 4096),
        (b"GET / HTTP/1.1\r\n", b"a" * 4096),
        (b"GET /", b"a" * 4096),
        (b"GET ", b" " * 4096),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"a: b\r\n"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3;", b"a" * 4096),
    ],
    ids=["value", "name", "path", "spaces", "headers", "trailers", "chunk extension"],
)
def test_a_head_without_end_is_refused(served: BoundedServer, beginning: bytes, piece: bytes) -> None:
    status, message = refusal(flood(served, beginning, piece))
    assert status == 431
    assert message == "a request line and its headers may have 4 KiB and 20 headers"


def test_the_limits_of_a_head_are_exact(served: BoundedServer) -> None:
    """20 headers and 4096 bytes of path, names and values, whether they come at once or in pieces."""

    def status(headers: int, size: int, piece: int) -> bytes:
        lines = [b"connection: close"] + [b"a: b"] * (headers - 2)
        used = len(b"/") + len(b"connectionclose") + 2 * (headers - 2) + len(b"long")
        head = b"\r\n".join([b"GET / HTTP/1.1", *lines, b"long: " + b"x" * (size - used), b"", b""])
        with served.connect() as connection:
            with suppress(OSError):
                for start in range(0, len(head), piece):
                    connection.sendall(head[start : start + piece])
                    if piece < len(head):
                        time.sleep(0.005)
            return rest(connection)[9:12]

    assert status(20, 4000, 9999) == status(20, 3900, 500) == b"200"
    assert status(21, 4000, 9999) == status(21, 3900, 500) == b"431"
    assert status(20, 4096, 9999) == b"200"
    assert status(20, 4097, 9999) == b"431"


def test_body_between_chunk_extensions_is_progress(served: BoundedServer) -> None:
    """Ten of 1000 bytes, each before a byte of the body, though no more than 4096 may come in a row."""
    with served.connect() as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            connection.sendall(b"1;" + b"a" * 1000 + b"\r\n")
            time.sleep(0.02)
            connection.sendall(b"x\r\n")
            time.sleep(0.02)
        connection.sendall(b"0\r\n\r\n")
        assert b'{"bytes": 10,' in rest(connection)


def test_trailers_are_no_headers(served: BoundedServer) -> None:
    answer = served.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-admin: yes\r\n\r\n")
    found = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert found == {"bytes": 3, "headers": ["host", "connection", "transfer-encoding"]}


def test_a_body_that_does_not_end_is_answered_408(served: BoundedServer) -> None:
    request = POST.replace(b"/ ", b"/unfinished ") + b"Content-Length: 1000\r\n\r\n"
    status, message = refusal(trickle(served, request, b"x"))
    assert (status, message) == (408, "the body was not complete after 2 seconds")
    served.until_disconnected("/unfinished")  # so that the application stops waiting


def test_a_body_may_take_a_second_more_for_each_4_kib(served: BoundedServer) -> None:
    """64 KiB over 3 seconds, though 1.5 are allowed to an empty one."""
    with served.connect() as connection:
        connection.sendall(POST + b"Content-Length: 65536\r\n\r\n" + bytes(65530))
        for _ in range(6):
            time.sleep(0.5)
            connection.sendall(b"x")
        assert rest(connection).endswith(b'{"bytes": 65536, "headers": ["host", "connection", "content-length"]}')


def test_an_answer_may_be_read_slowly_but_steadily(served: BoundedServer) -> None:
    """16 MiB over more than 3 seconds, the double of the time in which nothing may be read."""
    with served.connect() as connection:
        connection.sendall(GET.replace(b"/ ", b"/large "))
        found = 0
        for part in range(1, 17):
            time.sleep(0.2)
            while found < part * LARGE // 16:
                piece = connection.recv(2**16)
                assert piece
                found += len(piece)
        assert found + len(rest(connection)) > LARGE


def test_large_bodies_and_answers_pass(served: BoundedServer) -> None:
    assert b'{"bytes": 3000000,' in served.ask(POST + b"Content-Length: 3000000\r\n\r\n" + bytes(3000000))
    assert len(served.ask(GET.replace(b"/ ", b"/large ")).partition(b"\r\n\r\n")[2]) == LARGE


def test_what_follows_an_early_answer_ends_too(served: BoundedServer) -> None:
    """A client that is refused before its body cannot hold the connection by sending on."""
    answer = trickle(served, b"POST /refuse HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", b"x")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"refused")


def test_no_deadline_runs_during_an_answer(served: BoundedServer) -> None:
    """It takes three seconds; part of another request behind it ends the connection, not the answer."""
    events = b"".join(b"event %d" % number for number in range(10)) + b"end"
    request = GET.replace(b"/ ", b"/events ").replace(b"close", b"keep-alive")
    for behind in (b"GET / HT", GET):
        answer = served.ask(request + behind)
        assert answer.count(b"HTTP/1.1") == 1
        parts = answer.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]
        assert b"".join(parts).replace(b"\n", b"") == events


def test_a_client_that_does_not_read_is_left(served: BoundedServer) -> None:
    with served.connect() as connection:
        connection.sendall(GET.replace(b"/ ", b"/large/unread "))
        served.until_disconnected("/large/unread")


def test_what_is_no_http_is_answered_400(served: BoundedServer) -> None:
    assert refusal(served.ask(b"\x16\x03\x01\x02\x00\x01")) == (400, "this is not an HTTP request")
    assert refusal(served.ask(b"GET http://[ HTTP/1.1\r\n\r\n"))[0] == 400


def test_an_ended_connection_is_freed_at_once(served: BoundedServer) -> None:
    """Not when garbage is collected, until when its buffers would be kept."""
    gc.collect()
    gc.disable()
    try:
        for request in (
            b"",
            GET,
            POST + b"Content-Length: 9\r\n\r\n",
            b"no HTTP\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 30,
        ):
            served.ask(request)
            served.until_connections(0)
        deadline = time.monotonic() + 60
        while any(type(one) is BoundedProtocol for one in gc.get_objects()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        gc.enable()


def test_an_address_may_have_only_so_many_connections(served: BoundedServer) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(served.connect("127.0.0.2")) for _ in range(LIMITS.per_address)]
        served.until_connections(LIMITS.per_address)
        answer = served.ask(GET, "127.0.0.2")
        assert refusal(answer) == (503, "over 20 open connections of one address")
        assert b"retry-after: 5" in answer.lower()
        assert served.ask(GET, "127.0.0.3").startswith(b"HTTP/1.1 200")
        held[0].close()
        served.until_connections(LIMITS.per_address - 1)
        assert served.ask(GET, "127.0.0.2").startswith(b"HTTP/1.1 200")


def waiting(served: BoundedServer, stack: ExitStack, count: int) -> list[socket.socket]:
    """Connections with requests that the application does not answer yet."""
    connections = [stack.enter_context(served.connect()) for _ in range(count)]
    for connection in connections:
        connection.sendall(GET.replace(b"/ ", b"/wait "))
    while len(served.server.server_state.tasks) < count:
        time.sleep(0.01)
    return connections


def test_slow_clients_make_way_and_running_requests_do_not() -> None:
    """At the limit, one more connection ends the one that has kept the server waiting for longest."""
    limits = dataclasses.replace(LIMITS, connections=6, per_address=0, header_seconds=60, body_seconds=60)
    with serving(limits) as served, ExitStack() as stack:
        running = waiting(served, stack, 3)
        slow = []
        for number, sent in enumerate((POST + b"Content-Length: 9\r\n\r\n", b"GET / HTTP/1.1\r\n", b""), start=4):
            slow.append(stack.enter_context(served.connect()))
            slow[-1].sendall(sent)
            served.until_connections(number)
            time.sleep(0.2)  # until it has been read
        for _ in range(2):
            with served.connect() as another:
                another.sendall(GET)
                assert rest(another).startswith(b"HTTP/1.1 200")
        status, message = refusal(rest(slow[0]))
        assert (status, message) == (503, "over 6 open connections, and this one was waited for")
        served.loop.call_soon_threadsafe(served.app.go.set)
        for connection in running:
            assert rest(connection).endswith(b"waited")


def test_when_nobody_can_make_way_a_new_connection_is_refused() -> None:
    limits = dataclasses.replace(LIMITS, connections=2, per_address=0)
    with serving(limits) as served, ExitStack() as stack:
        running = waiting(served, stack, 2)
        assert refusal(served.ask(GET)) == (503, "over 2 open connections")
        assert served.refused == {503: 1}
        served.loop.call_soon_threadsafe(served.app.go.set)
        for connection in running:
            assert rest(connection).endswith(b"waited")


def test_addresses_of_proxies_are_exempt() -> None:
    def exempt(allowed: str | list[str], address: str) -> bool:
        return any(ip_address(address) in network for network in networks(allowed))

    assert exempt("", "127.0.0.1")
    assert exempt("", "::1")
    assert not exempt("127.0.0.1", "127.0.0.2")
    assert exempt("10.0.0.0/8, 192.168.1.7", "192.168.1.7")
    assert exempt(["10.0.0.0/8"], "10.1.2.3")
    assert not exempt("10.0.0.0/8,unix:/run/proxy", "11.1.2.3")
    assert exempt("*", "2001:db8::1")


def test_the_limit_on_open_files_bounds_connections() -> None:
    """The soft limit is raised to the hard one; what that does not allow is told."""
    code = """
import logging, resource, sys
from serve.http.connections.limits import fitting
logging.basicConfig(stream=sys.stdout, format="%(message)s")
for soft, hard in ((300, 5000), (300, 600), (128, 128)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(fitting(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [
        "1000 1256",
        "connections: at most 344, not 1000: this process may open only 600 files",
        "344 600",
        "connections: at most 32, not 1000: this process may open only 128 files",
        "32 128",
    ]


def test_addresses_are_counted_by_network_in_version_6() -> None:
    """Everyone with IPv6 has a /64 network of his own; IPv4 behind a dual-stack socket stays IPv4."""
    from serve.http.connections.census import Census

    limits: ConnectionLimits = dataclasses.replace(LIMITS, per_address=1)
    census = Census(limits, lambda _: None)
    assert census.enter("2001:db8:0:1::1") is None
    assert census.enter("2001:db8:0:2::1") is None
    assert census.enter("2001:db8:0:1:ffff::2") is not None
    assert census.enter("::ffff:192.0.2.1") is None
    assert census.enter("192.0.2.1") is not None
    assert census.enter(None) is None
