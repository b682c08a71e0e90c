"""A server that stops, after an engine's death or a signal; unexpected errors."""

import asyncio
import multiprocessing
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from torch import Tensor

from model.checkpoints.load import load
from model.janus import Janus
from serve.backends.engine_backend import EngineBackend
from serve.backends.loader import ProcessLoader
from serve.backends.registry import Registry
from serve.http.store import Store
from serve.server import Server, listen
from serve.settings.model_source import ModelSource
from serve.settings.server import Settings
from tests.thread_backend import ThreadBackend

IMAGES = "/v1/images/generations"


class Running:
    """A complete `Server` in this process; tests call its signal handler themselves."""

    def __init__(self, tmp_path: Path, **backends: EngineBackend) -> None:
        sources = tuple(ModelSource(name=name, source=name) for name in backends)
        settings = Settings(models=sources, drain_seconds=60, ui=False)
        self.models = Registry(lambda source: backends[source.name])
        self._listening = listen("127.0.0.1", 0)
        listener = self._listening.__enter__()
        store = Store(str(tmp_path), seconds=60, limit=2**20)
        self.server = Server(settings, self.models, store, listener)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.serve_until_stopped, daemon=True)
        self.thread.start()
        while not self.server.started or self.models.state == "loading" or len(self.models.served) < len(backends):
            time.sleep(0.005)

    def ask(self, pool: ThreadPoolExecutor, **body: Any) -> "Future[httpx.Response]":
        return pool.submit(httpx.post, self.url + IMAGES, json={"prompt": "a star"} | body, timeout=60)

    def until_running(self, name: str) -> None:
        while not self.models.served[name].backend.stats.running:
            time.sleep(0.001)

    def replace(self, name: str, source: str, loader: Callable[[ModelSource], EngineBackend]) -> None:
        """Load a model in place of the one of that name."""
        self.models._loader = loader
        loop = self.server._loop
        assert loop is not None
        loading = self.models.load(ModelSource(name=name, source=source), replace=True)
        asyncio.run_coroutine_threadsafe(loading, loop).result(60)

    def ended(self) -> None:
        self.thread.join(60)
        assert not self.thread.is_alive()
        self._listening.__exit__(None, None, None)


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


def slowly(backend: ThreadBackend, seconds: float) -> ThreadBackend:
    """Make each step of a backend take at least `seconds`."""
    decoder = backend.engine.decoder
    step = decoder.step

    def late(*arguments: Any) -> Tensor:
        time.sleep(seconds)
        return step(*arguments)

    decoder.step = late  # type: ignore[assignment, method-assign]
    return backend


def test_when_one_engine_dies_the_other_finishes_its_requests(
    janus: Janus, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(load(small_folder, device="cpu"), name="other")
    dying = ThreadBackend(janus, slots=2, on_death=lambda: running.server.die())
    healthy = slowly(ThreadBackend(other, slots=2), 0.01)
    running = Running(tmp_path, small=dying, other=healthy)
    with ThreadPoolExecutor(2) as pool:
        long = running.ask(pool, model="other", n=4)
        running.until_running("other")

        def broken(*_: object) -> Tensor:
            raise ZeroDivisionError("planted")

        monkeypatch.setattr(dying.engine.decoder, "step", broken)
        failed = running.ask(pool, model="small").result()
        assert failed.status_code == 503
        assert "ZeroDivisionError" in failed.json()["error"]["message"]
        assert long.result().status_code == 200
    running.ended()
    assert running.server.died  # the command then exits with code 1


def test_draining_waits_for_a_model_that_was_replaced(janus: Janus, small_folder: Path, tmp_path: Path) -> None:
    old = slowly(ThreadBackend(janus, slots=1), 0.01)
    running = Running(tmp_path, small=old)
    new = ThreadBackend(replace(load(small_folder, device="cpu"), name="small"))
    with ThreadPoolExecutor(1) as pool:
        long = running.ask(pool, n=3)
        running.until_running("small")
        running.replace("small", "small", lambda _: new)
        running.server.handle_exit(signal.SIGTERM, None)
        answer = long.result()
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 3
    running.ended()


def test_the_death_of_a_replaced_engine_ends_the_server(
    small_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both engines are processes. The replaced one had a request, which gets 503."""
    others = set(multiprocessing.active_children())
    loader = ProcessLoader(Settings(device="cpu", slots=1), on_death=lambda: running.server.die())
    running = Running(tmp_path, small=loader(ModelSource(name="small", source=str(small_folder))))
    (started,) = set(multiprocessing.active_children()) - others
    engine = psutil.Process(started.pid)
    engine.suspend()
    with ThreadPoolExecutor(1) as pool:
        asked = running.ask(pool)
        while not running.models.served["small"].backend.stats.waiting:
            time.sleep(0.001)
        running.replace("small", str(small_folder), loader)
        engine.send_signal(signal.SIGRTMIN + 2)  # a signal without a name
        engine.kill()
        assert asked.result().status_code == 503
    running.ended()
    assert running.server.died
    assert "the engine's process ended by " in caplog.text


def test_a_second_signal_stops_at_once(janus: Janus, tmp_path: Path) -> None:
    running = Running(tmp_path, small=slowly(ThreadBackend(janus, slots=1), 0.02))
    with ThreadPoolExecutor(1) as pool:
        long = running.ask(pool, n=10)  # over ten seconds
        running.until_running("small")
        running.server.handle_exit(signal.SIGTERM, None)
        while running.models.state != "draining":
            time.sleep(0.001)
        running.server.handle_exit(signal.SIGTERM, None)
        running.ended()
        with suppress(httpx.TransportError):
            assert long.result().status_code >= 500


def test_an_unexpected_error_is_answered_and_logged(
    small_backend: ThreadBackend, serve_on_socket: Callable[..., Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The store's folder is replaced by a file, so that no picture can be kept: in a stream and in a plain answer."""
    store = tmp_path / "store"
    with serve_on_socket(small_backend, store=str(store)) as served:
        served.post(IMAGES, {"prompt": "a star", "response_format": "url"}).raise_for_status()
        for path in store.iterdir():
            path.unlink()
        store.rmdir()
        store.write_text("no folder any more")
        body = {"prompt": "a star", "response_format": "url"}
        streamed = served.post(IMAGES, body | {"stream": True})
        assert re.findall(r"^event: (.*)$", streamed.text, re.MULTILINE) == ["error"]
        assert "something broke here" in streamed.text
        whole = served.post(IMAGES, body)
        assert whole.status_code == 500
        assert whole.headers["x-request-id"] in whole.json()["error"]["message"]
    assert whole.headers["x-request-id"] in caplog.text
    assert caplog.text.count("NotADirectoryError") >= 2
