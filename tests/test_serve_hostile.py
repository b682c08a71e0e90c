"""A real server, two thousand slow connections, and floods, while pictures are drawn."""

import re
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from tests.serve_process import IMAGES, ServeProcess

HELD = 2000
FLOOD = 200 * 2**20  # bytes
MIB = 2**20
LIMITS = ("--connections", "500", "--connections-per-address", "60", "--header-seconds", "5", "--body-seconds", "5")
BODIES = 64  # MiB, of all together
POST = f"POST {IMAGES} HTTP/1.1\r\nHost: x\r\n".encode()
BODY = POST + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"  # the beginning of one
IDLE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"  # after an answer that is not read
# at most 250 are being answered at once, so that there are always some that make way
SLOW = (b"", POST, BODY, b"", POST, BODY, POST, IDLE)


@pytest.fixture(scope="module")
def server() -> Iterator[ServeProcess]:
    with ServeProcess("tiny", *LIMITS, "--bodies-mib", str(BODIES)) as server:
        server.wait_until_ready()
        yield server


def memory(server: ServeProcess) -> float:
    """Resident memory of the server's process, in MiB."""
    return float(psutil.Process(server.process.pid).memory_info().rss / MIB)


def refused(server: ServeProcess) -> dict[int, int]:
    """Refused connections by status."""
    found = re.findall(r'refused_connections_total\{status="(\d+)"\} (\S+)', server.get("/metrics").text)
    return {int(status): int(float(count)) for status, count in found}


@contextmanager
def many_slow(server: ServeProcess) -> Iterator[list[socket.socket]]:
    """Connections from forty addresses that send a byte now and then, or nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, HELD + 1000), hard))
    stopped = threading.Event()
    with ExitStack() as stack:
        held: list[socket.socket] = []

        def hold() -> None:
            """Connect anew in place of each connection that was ended."""
            while not stopped.wait(1):
                for number in range(HELD):
                    if stopped.is_set():
                        return
                    if number < len(held):
                        with suppress(OSError):
                            held[number].send(b"x")
                            continue
                        held[number].close()
                    address = ("127.0.0.1", server.port)
                    connection = socket.create_connection(address, 60, (f"127.0.0.{2 + number % 40}", 0))
                    connection.setblocking(False)
                    with suppress(OSError):
                        connection.send(SLOW[number % len(SLOW)])
                    held[number : number + 1] = [connection]

        thread = threading.Thread(target=hold)
        thread.start()

        @stack.callback
        def close() -> None:
            for connection in held:
                connection.close()

        stack.callback(thread.join)
        stack.callback(stopped.set)
        until = time.monotonic() + 120
        while len(held) < HELD:
            assert time.monotonic() < until
            time.sleep(0.01)
        yield held
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_pictures_are_drawn_while_two_thousand_connections_are_held(server: ServeProcess) -> None:
    """The same pictures as before, all of them; memory and open files stay bounded."""
    asked = [{"seed": seed, "n": 2} for seed in range(5)]
    expected = [server.draw(**one).json()["data"] for one in asked]
    process, before = psutil.Process(server.process.pid), memory(server)
    with many_slow(server):
        for _ in range(2):
            assert [server.draw(**one).json()["data"] for one in asked] == expected
            assert process.num_fds() < 500 + 100  # other files
        assert memory(server) < before + 50
    told = refused(server)
    assert set(told) <= {400, 408, 503}
    assert told[503] > 0  # those that made way
    until = time.monotonic() + 60
    while process.num_fds() > 100:
        assert time.monotonic() < until, process.num_fds()
        time.sleep(0.1)


@pytest.mark.parametrize(
    "beginning",
    [b"GET / HTTP/1.1\r\nA: ", b"GET /", POST + b"Transfer-Encoding: chunked\r\n\r\n3;"],
    ids=["header", "path", "chunk extension"],
)
def test_a_flood_costs_no_memory_and_others_are_answered(server: ServeProcess, beginning: bytes) -> None:
    before, sent = memory(server), 0
    with socket.create_connection(("127.0.0.1", server.port)) as flood:
        flood.sendall(beginning)
        with suppress(OSError):
            while sent < FLOOD:
                flood.sendall(b"a" * MIB)
                sent += MIB
                assert server.live
    assert memory(server) < before + 10
    assert refused(server)[431] > 0


def test_bodies_of_many_clients_share_a_budget(server: ServeProcess) -> None:
    """Twenty send 31 MiB each, and then no more: there is room for two of them, and the others are refused."""
    before = memory(server)
    length = f"Content-Type: application/json\r\nContent-Length: {32 * MIB}\r\n\r\n".encode()
    with ExitStack() as stack:
        clients: list[socket.socket] = []
        for _ in range(
            20
        ):  # one after the other: a connection on which nothing comes is closed after the header's seconds
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
            clients.append(client)
            client.sendall(POST + length)
            with suppress(OSError):
                for _ in range(31):
                    client.sendall(b" " * MIB)
            assert server.draw().status_code == 200
            assert memory(server) < before + BODIES + 40
        answered: list[socket.socket] = []
        until = time.monotonic() + 60
        while len(answered) < 18:
            assert time.monotonic() < until
            answered = select.select(clients, (), (), 1)[0]
        assert {client.recv(12) for client in answered} == {b"HTTP/1.1 503"}
    while "\nfocusdiff_request_body_bytes 0.0\n" not in server.get("/metrics").text:
        assert time.monotonic() < until
        time.sleep(0.1)
