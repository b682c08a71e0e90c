"""The server process in operation: health, logs, traces, draining, signals and crashes."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from tests.serve_process import IMAGES, ServeProcess
from tests.thread_backend import ThreadBackend


@pytest.mark.long
def test_a_server_loads_then_serves_then_drains(small_folder: Path) -> None:
    """Told to stop, it finishes accepted requests and refuses new ones.

    Service managers and terminals signal whole process groups, its engines too.
    """
    with ServeProcess(small_folder, "--slots", "1") as server, ThreadPoolExecutor(1) as pool:
        assert server.wait_until_ready() == {"loading", "ready"}
        assert server.get("/health/ready").json() == {"status": "ready", "models": ["small"]}
        engine = server.engine
        assert engine.environ()["OMP_WAIT_POLICY"] == "passive"
        engine.suspend()  # so that the request cannot end before the server was looked at
        long = pool.submit(server.draw, n=10)
        server.wait_until_waiting(1)
        for one in server.children:
            one.send_signal(signal.SIGTERM)
            one.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        while server.status != "draining":
            time.sleep(0.02)
        assert server.live
        assert server.draw().status_code == 503
        engine.resume()
        assert long.result().status_code == 200
        assert len(long.result().json()["data"]) == 10
        assert server.wait() == 0
        assert "Traceback" not in server.log


@pytest.mark.long
def test_requests_given_up_at_the_drain_limit_get_503(small_folder: Path) -> None:
    """SIGINT drains, too."""
    with ServeProcess(small_folder, "--slots", "1", "--drain-seconds", "0.1") as server, ThreadPoolExecutor(5) as pool:
        server.wait_until_ready()
        body = {"prompts": ["a star", "a heart"], "n": 10}
        long = [pool.submit(httpx.post, f"{server.url}/v1/images/pairs", json=body, timeout=60) for _ in range(5)]
        server.wait_until_waiting(60)
        server.process.send_signal(signal.SIGINT)
        given_up = [one.result() for one in long if one.result().status_code != 200]
        assert given_up
        for answer in given_up:
            assert answer.status_code == 503
            assert answer.json()["error"]["message"] == "the server is stopping"
        assert server.wait() == 0


@pytest.mark.long
def test_a_step_that_fails_ends_a_stream_with_an_error(small_folder: Path, tmp_path: Path) -> None:
    """Step 41 raises: five previews and an error event come, the traceback is logged, the exit code is 1."""
    (tmp_path / "sitecustomize.py").write_text(  # every process of the server imports it; engines act
        "import sys\n"
        "if '--multiprocessing-fork' in sys.orig_argv:\n"
        "    import model.decoder as decoder\n"
        "    step, count = decoder.Decoder.step, [0]\n"
        "    def broken(*arguments):\n"
        "        count[0] += 1\n"
        "        if count[0] > 40: raise ZeroDivisionError('planted')\n"
        "        return step(*arguments)\n"
        "    decoder.Decoder.step = broken\n"
    )
    with ServeProcess(small_folder, "--no-jacobi", environment={"PYTHONPATH": str(tmp_path)}) as server:
        server.wait_until_ready()
        body = {"prompt": "a star", "stream": True, "partial_images": 7}
        with httpx.stream("POST", server.url + IMAGES, json=body, timeout=60) as stream:
            text = stream.read().decode()
        kinds = re.findall(r"^event: (.*)$", text, re.MULTILINE)
        assert kinds == ["image_generation.partial_image"] * 5 + ["error"]
        assert "the engine failed: ZeroDivisionError" in text
        assert server.wait() == 1
        assert "planted" in server.log


@pytest.mark.long
def test_all_requests_of_a_killed_engine_end_with_an_error(small_folder: Path) -> None:
    """SIGKILL, as sent by the kernel when memory is short: a stream gets an error event, waiting requests get 503."""
    with ServeProcess(small_folder, "--slots", "1") as server, ThreadPoolExecutor(3) as pool:
        server.wait_until_ready()
        body = {"prompt": "a star", "n": 10, "stream": True}
        with httpx.stream("POST", server.url + IMAGES, json=body, timeout=60) as stream:
            lines = stream.iter_lines()
            assert "event: image_generation.completed" in lines  # the first of ten
            engine = server.engine
            engine.suspend()
            waiting = [pool.submit(server.draw, n=10) for _ in range(3)]
            server.wait_until_waiting(30)
            engine.kill()
            rest = list(lines)
        message = "the engine's process ended by SIGKILL (is there enough memory?)"
        assert "event: error" in rest
        assert message in "".join(rest)
        for one in waiting:
            assert one.result().status_code == 503
            assert one.result().json()["error"]["message"] == message
        assert server.wait() == 1


@pytest.mark.long
@pytest.mark.parametrize("signals", [1, 2])
def test_a_hanging_engine_does_not_keep_the_server_from_stopping(small_folder: Path, signals: int) -> None:
    """The engine is suspended: after one SIGTERM it is given up at the drain limit, after a second one at once."""
    short = "import serve.backends.engine_backend\nserve.backends.engine_backend._HANGING_SECONDS = 0.5"
    drain = ("--drain-seconds", "0.1" if signals == 1 else "60")
    with ServeProcess(small_folder, "--slots", "1", *drain, planted=short) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_ready()
        server.engine.suspend()
        asked = pool.submit(server.draw)
        server.wait_until_waiting(1)
        server.process.send_signal(signal.SIGTERM)
        if signals == 2:
            while server.status != "draining":
                time.sleep(0.02)
            server.process.send_signal(signal.SIGTERM)
        server.wait()
        with suppress(httpx.TransportError):
            assert asked.result().status_code == 503


def test_stopping_does_not_wait_for_a_model_that_is_loading(small_folder: Path) -> None:
    with ServeProcess(small_folder) as server:
        deadline = time.monotonic() + 600
        engine = None
        while engine is None:
            assert time.monotonic() < deadline
            with suppress(ValueError):
                engine = server.engine
            time.sleep(0.01)
        engine.suspend()
        while not server.live:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for one in server.children:
            one.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_an_interrupt_during_the_start_is_not_swallowed(small_folder: Path) -> None:
    """Planted code would swallow a KeyboardInterrupt, as some imports do; server and engine end all the same."""
    swallow = (
        "import serve.http.store, time\n"
        "def store(*_, **__):\n"
        "    print('here', flush=True)\n"
        "    try: time.sleep(60)\n"
        "    except BaseException: time.sleep(60)\n"
        "serve.http.store.Store = store"
    )
    with ServeProcess(small_folder, planted=swallow) as server:
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == "here\n"
        engine = server.engine
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == -signal.SIGINT
        assert psutil.wait_procs([engine], timeout=120)[1] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_loading_begins_stops_the_server(small_folder: Path, number: int) -> None:
    told = (
        "import os, uvicorn\n"
        "startup = uvicorn.Server.startup\n"
        "async def told(self, sockets=None):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    await startup(self, sockets=sockets)\n"
        "uvicorn.Server.startup = told"
    )
    with ServeProcess(small_folder, planted=told) as server:
        assert server.wait() == 0
        assert not re.search("Traceback|ERROR", server.log)


@pytest.mark.long
def test_a_killed_server_leaves_no_engine_and_no_half_written_picture(
    small_folder: Path, tmp_path: Path, small_backend: ThreadBackend, serve_on_socket: Callable[..., Any]
) -> None:
    """Killed in the middle of a write, it leaves a .partial file, which the next server removes.

    Its engine, which has more to draw, ends.
    """
    planted = (
        "import os, fsspec.implementations.local as local\n"
        "def killed(self, value):\n"
        "    self.f.write(value[:100]); self.f.flush()\n"
        "    os.kill(os.getpid(), 9)\n"
        "local.LocalFileOpener.write = killed\n"
    )
    store = tmp_path / "store"
    with ServeProcess(small_folder, "--store", str(store), planted=planted) as server:
        server.wait_until_ready()
        processes = server.children
        assert server.engine in processes
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(server.draw, **body) for body in ({"response_format": "url"}, {"n": 10})]
        assert isinstance(asked[0].exception(), httpx.TransportError)
        assert server.wait() == -signal.SIGKILL
        assert psutil.wait_procs(processes, timeout=120)[1] == []
    (partial,) = store.iterdir()
    assert partial.name.endswith(".partial")
    with serve_on_socket(small_backend, store=str(store)) as served:
        assert list(store.iterdir()) == []
        answer = served.post(IMAGES, {"prompt": "a star", "response_format": "url"}).json()
        assert httpx.get(answer["data"][0]["url"]).content.endswith(b"IEND\xaeB`\x82")


def test_a_taken_port_is_a_one_line_error_and_exit_code_2(small_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "serve.command", "--no-ui", "--model", str(small_folder)]
        command += ["--port", str(taken.getsockname()[1])]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot listen on 127.0.0.1 port")
    assert ended.stderr.count("\n") == 1


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Receiver of OpenTelemetry traces; yields its URL and the bodies that it received."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


@pytest.mark.long
def test_logs_are_json_without_prompts_or_keys_and_traces_go_to_the_endpoint_in_the_environment(
    small_folder: Path, collector: tuple[str, list[bytes]]
) -> None:
    """Lines of one request have its id."""
    endpoint, received = collector
    arguments = ("--log-format", "json", "--api-keys", "sk-secret")
    with ServeProcess(small_folder, *arguments, environment={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}) as server:
        server.wait_until_ready()
        headers = {"Authorization": "Bearer sk-secret"}
        answer = httpx.post(server.url + IMAGES, json={"prompt": "a purple heart"}, headers=headers, timeout=60)
        assert answer.status_code == 200
        server.process.terminate()
        assert server.wait() == 0
        lines = [json.loads(line) for line in server.log.splitlines()]
    (access,) = [line for line in lines if line.get("path") == IMAGES]
    assert (access["method"], access["status"]) == ("POST", 200)
    assert access["seconds"] > 0
    assert access["request_id"] == answer.headers["x-request-id"]
    assert [line["request_id"] for line in lines if "caller" in line] == [access["request_id"]]
    text = json.dumps(lines)
    assert "purple" not in text
    assert "sk-secret" not in text
    spans = b"".join(received)
    for name in (b"POST /v1/images/generations", b"Started", b"Finished"):
        assert name in spans
    assert b"/health" not in spans


def test_prompts_are_logged_when_asked_for(
    small_backend: ThreadBackend, make_app: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client = TestClient(make_app(small_backend, log_prompts=True)[0])
    client.post(IMAGES, json={"prompt": "a purple heart"})
    assert [record.prompt for record in caplog.records if hasattr(record, "prompt")] == ["a purple heart"]
