"""The limit on the request bodies of all clients together, over real sockets."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.checkpoints.load import load
from model.janus import Janus
from serve.http.planning import seeds_of
from serve.http.schemas import PictureRequest
from tests.bounded_server import rest
from tests.thread_backend import ThreadBackend

IMAGES = "/v1/images/generations"
MIB = 2**20
FREE = 2**16  # bytes of each body that do not count
LIMIT = 2 * (MIB - FREE)  # bytes: two bodies of 1 MiB, and not a byte more
LIMITS = {"max_body_mib": 1, "bodies_mib": LIMIT / MIB, "body_seconds": 600}
USED_UP = "this server holds at most 1.875 MiB of request bodies at once"


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


@pytest.fixture
def backend(janus: Janus) -> ThreadBackend:
    return ThreadBackend(janus, slots=4)


@pytest.fixture
def served(backend: ThreadBackend, serve_on_socket: Callable[..., Any]) -> Iterator[Any]:
    with serve_on_socket(backend, **LIMITS) as served:
        yield served


def padded(size: int, **fields: Any) -> bytes:
    """A body of this size that asks for a picture."""
    return json.dumps({"prompt": "a star"} | fields).encode().ljust(size)


def post(served: Any, body: bytes) -> httpx.Response:
    return httpx.post(served.url + IMAGES, content=body, headers={"content-type": "application/json"}, timeout=60)


def until_held(served: Any, size: int) -> None:
    """Wait until the server holds so many bytes of bodies."""
    deadline = time.monotonic() + 60
    while True:
        found = re.search(r"\nfocusdiff_request_body_bytes (\S+)", httpx.get(served.url + "/metrics").text)
        assert found
        if float(found[1]) == size:
            return
        assert time.monotonic() < deadline, found[1]
        time.sleep(0.01)


def begin(served: Any, size: int, **fields: Any) -> socket.socket:
    """A connection that has sent all but a byte of a body."""
    connection = socket.create_connection(("127.0.0.1", served.port), 60)
    head = f"POST {IMAGES} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode() + padded(size, **fields)[:-1])
    return connection


def assert_whole(served: Any) -> None:
    """Nothing is held: two bodies of 1 MiB pass, and the budget has no byte more than they need."""
    until_held(served, 0)
    with begin(served, MIB) as one:
        until_held(served, LIMIT // 2 - 1)
        with begin(served, MIB) as another:
            until_held(served, LIMIT - 2)
            assert post(served, padded(FREE + 2)).status_code == 200
            assert post(served, padded(FREE + 3)).status_code == 503
            until_held(served, LIMIT - 2)
            for connection in (one, another):
                connection.sendall(b" ")
                assert rest(connection).startswith(b"HTTP/1.1 200")
    until_held(served, 0)


def test_all_clients_share_a_budget(served: Any) -> None:
    with begin(served, MIB), begin(served, MIB):
        until_held(served, LIMIT - 2)
        answer = post(served, padded(MIB))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        error = answer.json()["error"]
        assert (error["message"], error["type"]) == (USED_UP, "server_error")
        assert post(served, padded(FREE)).status_code == 200
    assert_whole(served)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (padded(MIB), 200),
        (padded(MIB, stream=True), 200),
        (b"{" * MIB, 400),
        (padded(MIB, n=11), 400),
        (padded(2 * MIB), 413),
        (padded(MIB, seed=404), 500),
    ],
    ids=["answered", "streamed", "not JSON", "invalid", "too large", "broken"],
)
def test_what_has_been_answered_is_no_longer_held(
    served: Any, monkeypatch: pytest.MonkeyPatch, body: bytes, status: int
) -> None:
    """Whether its length is told ahead or not; the last one breaks the route."""

    def break_at_404(request: PictureRequest) -> tuple[int, ...]:
        if request.seed == 404:
            raise RuntimeError("planted")
        return seeds_of(request)

    monkeypatch.setattr("serve.http.routes.images.seeds_of", break_at_404)
    assert post(served, body).status_code == status
    pieces = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    chunked = httpx.post(served.url + IMAGES, content=pieces, headers={"content-type": "application/json"}, timeout=60)
    assert chunked.status_code == status
    assert_whole(served)


def test_a_body_is_held_until_its_request_is_answered(
    backend: ThreadBackend, serve_on_socket: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And makes no way, however long that takes."""
    go, step = threading.Event(), backend.engine.decoder.step

    def wait(*arguments: Any) -> Any:
        go.wait(60)
        return step(*arguments)

    monkeypatch.setattr(backend.engine.decoder, "step", wait)
    with (
        serve_on_socket(backend, **LIMITS | {"body_seconds": 0.01}) as served,
        begin(served, MIB) as one,
        begin(served, MIB, stream=True) as another,
    ):
        for connection in (one, another):
            connection.sendall(b" ")
        until_held(served, LIMIT)
        time.sleep(0.1)
        assert post(served, padded(FREE + 1)).status_code == 503
        go.set()
        assert rest(one).startswith(b"HTTP/1.1 200")
        assert rest(another).startswith(b"HTTP/1.1 200")
        until_held(served, 0)


def test_a_client_that_leaves_gives_its_bytes_back(
    served: Any, backend: ThreadBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it sends, while it is drawn for, and in a stream."""
    go, step = threading.Event(), backend.engine.decoder.step

    def wait(*arguments: Any) -> Any:
        go.wait(60)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(backend.engine.decoder, "step", wait)
        for fields, last in (({}, b""), ({}, b" "), ({"stream": True}, b" ")):
            with begin(served, MIB, **fields) as connection:
                until_held(served, LIMIT // 2 - 1)
                connection.sendall(last)
                until_held(served, LIMIT // 2 - 1 + len(last))
            until_held(served, 0)
        go.set()
    assert_whole(served)


def test_slow_bodies_make_way_the_oldest_first(backend: ThreadBackend, serve_on_socket: Callable[..., Any]) -> None:
    """After `--body-seconds`, and only as many as are needed."""
    with serve_on_socket(backend, **LIMITS | {"body_seconds": 0.5}) as served:
        with begin(served, MIB) as oldest:
            until_held(served, LIMIT // 2 - 1)
            with begin(served, MIB) as another:
                until_held(served, LIMIT - 2)
                time.sleep(0.5)
                assert post(served, padded(MIB)).status_code == 200
                answer = rest(oldest)
                assert answer.startswith(b"HTTP/1.1 503")
                late = f"{USED_UP}, and this one was not complete after 0.5 seconds"
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"] == late
                another.sendall(b" ")
                assert rest(another).startswith(b"HTTP/1.1 200")
        until_held(served, 0)
