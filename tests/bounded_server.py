"""A small application behind the server's protocol, on a thread of this process."""

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from serve.http.connections.census import Census
from serve.http.connections.limits import ConnectionLimits, networks
from serve.http.connections.protocol import BoundedProtocol

LIMITS = ConnectionLimits(
    header_bytes=4096,
    headers=20,
    header_seconds=1,
    body_seconds=1.5,
    connections=40,
    per_address=20,
    exempt=networks("127.0.0.1"),
)
LARGE = 16 * 2**20  # bytes, more than sockets buffer


class App:
    """Answers each path in its own way; notes the disconnects that it hears of."""

    def __init__(self) -> None:
        self.disconnected: Counter[str] = Counter()
        self.go = asyncio.Event()  # ends /wait

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/refuse":  # before the body is read
            await _answer(send, b"refused")
            return
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected[path] += 1
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        match path:
            case "/events":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                for number in range(10):
                    await send({"type": "http.response.body", "body": b"event %d\n" % number, "more_body": True})
                    await asyncio.sleep(0.3)
                await send({"type": "http.response.body", "body": b"end"})
            case "/large" | "/large/unread":
                await _answer(send, bytes(LARGE))
                self.disconnected[path] += (await receive())["type"] == "http.disconnect"
            case "/wait":
                await self.go.wait()
                await _answer(send, b"waited")
            case _:
                names = [name.decode() for name, _ in scope["headers"]]
                await _answer(send, json.dumps({"bytes": size, "headers": names}).encode())


async def _answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class BoundedServer:
    """A running server; `refused` counts its refusals by status."""

    app: App
    address: tuple[str, int]
    server: uvicorn.Server
    refused: Counter[int]
    loop: asyncio.AbstractEventLoop

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def until_connections(self, count: int) -> None:
        """Wait until so many connections are open."""
        deadline = time.monotonic() + 60
        while self.connections != count:
            assert time.monotonic() < deadline, self.connections
            time.sleep(0.01)

    def until_disconnected(self, path: str) -> None:
        """Wait until the application has heard that the only client of this path is gone."""
        deadline = time.monotonic() + 60
        while self.app.disconnected[path] != 1:
            assert time.monotonic() < deadline, self.app.disconnected
            time.sleep(0.01)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(self.address, 60, (source, 0))

    def ask(self, request: bytes, source: str = "127.0.0.1") -> bytes:
        """All that the server sends on a new connection until it closes it."""
        with self.connect(source) as connection:
            connection.sendall(request)
            return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    found = b""
    while piece := connection.recv(2**16):
        found += piece
    return found


@contextmanager
def serving(limits: ConnectionLimits = LIMITS, *, loop: str = "uvloop") -> Iterator[BoundedServer]:
    """Serve `App` in a thread."""
    app, refused = App(), Counter[int]()
    config = uvicorn.Config(app, http=BoundedProtocol, loop=loop, ws="none", lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    server.server_state = Census(limits, lambda status: refused.update([status]))
    loops: list[asyncio.AbstractEventLoop] = []

    async def run(listener: socket.socket) -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listener])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        runner = asyncio.Runner(loop_factory=config.get_loop_factory())
        thread = threading.Thread(target=lambda: runner.run(run(listener)))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield BoundedServer(app, listener.getsockname(), server, refused, loops[0])
        server.should_exit = True
        thread.join()
        runner.close()
