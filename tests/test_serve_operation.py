"""The server process in operation: health, logs, draining, signals and crashes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil
import pytest
from fastapi.testclient import TestClient

from bench.speed.server_process import free_port
from tests.thread_backend import ThreadBackend

IMAGES = "/v1/images/generations"
Server = "subprocess.Popen[str]"


@contextmanager
def server(
    folder: Path,
    *arguments: str,
    planted: str = "",
    environment: Mapping[str, str] = MappingProxyType({}),
    port: int | None = None,
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run a server process; yields its URL and the process. `planted` is code run first, but not in its engines."""
    port = port or free_port()
    code = f"import serve.command\n{planted}\nserve.command.main()"
    command = [sys.executable, "-c", code, "--no-ui", "--model", str(folder), "--port", str(port), *arguments]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | dict(environment)
    )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.communicate()


def live(url: str) -> bool:
    """Whether a server answers."""
    try:
        return httpx.get(f"{url}/health/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def ready(url: str, process: "subprocess.Popen[str]") -> set[str]:
    """Wait until a server is ready; returns the states that it reported."""
    seen: set[str] = set()
    deadline = time.monotonic() + 120
    while "ready" not in seen:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            health = httpx.get(f"{url}/health/ready", timeout=5)
        except httpx.TransportError:
            time.sleep(0.05)
            continue
        seen.add(health.json()["status"])
        assert (health.status_code == 200) == (health.json()["status"] == "ready")
    return seen


def test_a_server_loads_then_serves_then_drains(small_folder: Path) -> None:
    """SIGTERM finishes accepted requests and refuses new ones."""
    with server(small_folder, "--slots", "1") as (url, process), ThreadPoolExecutor(1) as pool:
        assert ready(url, process) == {"loading", "ready"}
        assert httpx.get(f"{url}/health/ready", timeout=60).json() == {"status": "ready", "models": ["small"]}
        engine = engine_of(process)
        assert engine.environ()["OMP_WAIT_POLICY"] == "passive"
        engine.suspend()  # so that the request cannot end before the server was looked at
        long = pool.submit(httpx.post, url + IMAGES, json={"prompt": "a star", "n": 10}, timeout=60)
        while not re.search(r'waiting_images\{model="small"\} [1-9]', httpx.get(f"{url}/metrics", timeout=60).text):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        while (health := httpx.get(f"{url}/health/ready", timeout=60)).json()["status"] != "draining":
            pass
        assert health.status_code == 503
        assert httpx.get(f"{url}/health/live", timeout=60).status_code == 200
        assert httpx.post(url + IMAGES, json={"prompt": "a star"}, timeout=60).status_code == 503
        engine.resume()
        assert long.result().status_code == 200
        assert len(long.result().json()["data"]) == 10
        assert process.wait(120) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_requests_given_up_at_the_drain_limit_get_503(small_folder: Path) -> None:
    with (
        server(small_folder, "--slots", "1", "--drain-seconds", "0.1") as (url, process),
        ThreadPoolExecutor(5) as pool,
    ):
        ready(url, process)
        body = {"prompts": ["a star", "a heart"], "n": 10}
        long = [pool.submit(httpx.post, f"{url}/v1/images/pairs", json=body, timeout=60) for _ in range(5)]
        while not re.search(r'waiting_images\{model="small"\} [6-9]\d', httpx.get(f"{url}/metrics", timeout=60).text):
            pass
        process.send_signal(signal.SIGTERM)
        given_up = [one.result() for one in long if one.result().status_code != 200]
        assert given_up
        for answer in given_up:
            assert answer.status_code == 503
            assert answer.json()["error"]["message"] == "the server is stopping"
        assert process.wait(120) == 0


def engine_of(process: "subprocess.Popen[str]") -> psutil.Process:
    """The engine's process; the server's other child belongs to multiprocessing."""
    (engine,) = [one for one in psutil.Process(process.pid).children() if "spawn_main" in " ".join(one.cmdline())]
    return engine


@pytest.mark.long
def test_a_signal_to_all_processes_of_the_server_drains_it(small_folder: Path) -> None:
    """Service managers and terminals signal whole process groups; accepted requests are finished all the same."""
    with server(small_folder, "--slots", "1") as (url, process), ThreadPoolExecutor(1) as pool:
        ready(url, process)
        engine = engine_of(process)
        engine.suspend()
        long = pool.submit(httpx.post, url + IMAGES, json={"prompt": "a star", "n": 10}, timeout=60)
        while not re.search(r'waiting_images\{model="small"\} [1-9]', httpx.get(f"{url}/metrics", timeout=60).text):
            time.sleep(0.05)
        for one in psutil.Process(process.pid).children(recursive=True):
            one.send_signal(signal.SIGTERM)
            one.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        engine.resume()
        assert long.result().status_code == 200
        assert process.wait(120) == 0


@pytest.mark.long
def test_a_step_that_fails_ends_a_stream_with_an_error(small_folder: Path, tmp_path: Path) -> None:
    """Step 41 raises: five previews and an error event come, the traceback is logged, the exit code is 1."""
    (tmp_path / "sitecustomize.py").write_text(  # every process of the server imports it
        "import model.decoder as decoder\n"
        "step, count = decoder.Decoder.step, [0]\n"
        "def broken(*arguments):\n"
        "    count[0] += 1\n"
        "    if count[0] > 40: raise ZeroDivisionError('planted')\n"
        "    return step(*arguments)\n"
        "decoder.Decoder.step = broken\n"
    )
    with server(small_folder, environment={"PYTHONPATH": str(tmp_path)}) as (url, process):
        ready(url, process)
        body = {"prompt": "a star", "stream": True, "partial_images": 7}
        with httpx.stream("POST", url + IMAGES, json=body, timeout=60) as stream:
            text = stream.read().decode()
        kinds = re.findall(r"^event: (.*)$", text, re.MULTILINE)
        assert kinds == ["image_generation.partial_image"] * 5 + ["error"]
        assert "the engine failed: ZeroDivisionError" in text
        assert process.wait(120) == 1
        assert process.stderr is not None
        assert "planted" in process.stderr.read()


def test_all_requests_of_a_killed_engine_end_with_an_error(small_folder: Path) -> None:
    """SIGKILL, as sent by the kernel when memory is short: a stream gets an error event, waiting requests get 503."""
    with server(small_folder, "--slots", "1") as (url, process), ThreadPoolExecutor(3) as pool:
        ready(url, process)
        body = {"prompt": "a star", "n": 10}
        with httpx.stream("POST", url + IMAGES, json=body | {"stream": True}, timeout=60) as stream:
            lines = stream.iter_lines()
            assert "event: image_generation.completed" in lines  # the first of ten
            engine = engine_of(process)
            engine.suspend()
            waiting = [pool.submit(httpx.post, url + IMAGES, json=body, timeout=60) for _ in range(3)]
            while not re.search(r'waiting_images\{model="small"\} 3\d', httpx.get(f"{url}/metrics", timeout=60).text):
                time.sleep(0.05)
            engine.kill()
            rest = list(lines)
        message = "the engine's process ended by SIGKILL (is there enough memory?)"
        assert "event: error" in rest
        assert message in "".join(rest)
        for one in waiting:
            assert one.result().status_code == 503
            assert one.result().json()["error"]["message"] == message
        assert process.wait(120) == 1


@pytest.mark.long
def test_a_hanging_engine_does_not_keep_the_server_from_stopping(small_folder: Path) -> None:
    """The engine is suspended: after one SIGTERM it is given up at the drain limit, after a second one at once."""
    short = "import serve.backends.engine_backend\nserve.backends.engine_backend._HANGING_SECONDS = 0.5"
    for signals in (1, 2):
        drain = ("--drain-seconds", "0.1" if signals == 1 else "60")
        with (
            server(small_folder, "--slots", "1", *drain, planted=short) as (url, process),
            ThreadPoolExecutor(1) as pool,
        ):
            ready(url, process)
            engine_of(process).suspend()
            asked = pool.submit(httpx.post, url + IMAGES, json={"prompt": "a star"}, timeout=60)
            while 'waiting_images{model="small"} 1' not in httpx.get(f"{url}/metrics", timeout=60).text:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            if signals == 2:
                while httpx.get(f"{url}/health/ready", timeout=60).json()["status"] != "draining":
                    time.sleep(0.05)
                process.send_signal(signal.SIGTERM)
            process.wait(120)
            with suppress(httpx.TransportError):
                assert asked.result().status_code == 503


def test_stopping_does_not_wait_for_a_model_that_is_loading(small_folder: Path) -> None:
    with server(small_folder) as (url, process):
        deadline = time.monotonic() + 60
        engine = None
        while engine is None:
            assert time.monotonic() < deadline
            with suppress(ValueError):
                engine = engine_of(process)
        engine.suspend()
        while not live(url):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for one in psutil.Process(process.pid).children(recursive=True):
            one.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


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
    with server(small_folder, planted=swallow) as (_, process):
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        engine = engine_of(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == -signal.SIGINT
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
    with server(small_folder, planted=told) as (_, process):
        assert process.wait(120) == 0
        assert process.stderr is not None
        assert not re.search("Traceback|ERROR", process.stderr.read())


@pytest.mark.long
def test_the_death_of_a_replaced_engine_ends_the_server(small_folder: Path) -> None:
    """It had a request, which gets 503; exit code 1 tells the supervisor to restart the server."""
    with server(small_folder, "--slots", "1", "--admin-key", "k") as (url, process), ThreadPoolExecutor(1) as pool:
        ready(url, process)
        engine = engine_of(process)
        engine.suspend()
        asked = pool.submit(httpx.post, url + IMAGES, json={"prompt": "a star"}, timeout=60)
        while 'waiting_images{model="small"} 1' not in httpx.get(f"{url}/metrics", timeout=60).text:
            time.sleep(0.05)
        body = {"source": str(small_folder), "name": "small", "replace": True}
        swapped = httpx.post(f"{url}/admin/models", json=body, headers={"Authorization": "Bearer k"}, timeout=60)
        assert swapped.status_code == 200
        engine.send_signal(signal.SIGRTMIN + 2)  # a signal without a name
        engine.kill()
        assert asked.result().status_code == 503
        assert process.wait(120) == 1
        assert process.stderr is not None
        assert "the engine's process ended by " in process.stderr.read()


@pytest.mark.long
def test_a_killed_server_leaves_no_engine_and_no_half_written_picture(small_folder: Path, tmp_path: Path) -> None:
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
    with server(small_folder, "--store", str(store), planted=planted) as (url, process):
        ready(url, process)
        processes = psutil.Process(process.pid).children()
        assert engine_of(process) in processes
        bodies = ({"prompt": "a star", "response_format": "url"}, {"prompt": "a star", "n": 10})
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(httpx.post, url + IMAGES, json=body, timeout=60) for body in bodies]
        assert isinstance(asked[0].exception(), httpx.TransportError)
        assert process.wait(120) == -signal.SIGKILL
        assert psutil.wait_procs(processes, timeout=120)[1] == []
    (partial,) = store.iterdir()
    assert partial.name.endswith(".partial")
    with server(small_folder, "--store", str(store)) as (url, process):
        ready(url, process)
        assert list(store.iterdir()) == []
        answer = httpx.post(url + IMAGES, json={"prompt": "a star", "response_format": "url"}, timeout=60).json()
        assert httpx.get(answer["data"][0]["url"]).content.endswith(b"IEND\xaeB`\x82")


def test_a_taken_port_is_a_one_line_error_and_exit_code_2(small_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "serve.command", "--no-ui", "--model", str(small_folder)]
        command += ["--port", str(taken.getsockname()[1])]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot listen on 127.0.0.1 port")
    assert ended.stderr.count("\n") == 1


def test_logs_are_json_with_request_ids_and_without_prompts_or_keys(small_folder: Path) -> None:
    arguments = ("--log-format", "json", "--api-keys", "sk-secret")
    with server(small_folder, *arguments) as (url, process):
        ready(url, process)
        headers = {"Authorization": "Bearer sk-secret"}
        answer = httpx.post(url + IMAGES, json={"prompt": "a purple heart"}, headers=headers, timeout=60)
        assert answer.status_code == 200
        process.terminate()
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    (access,) = [line for line in lines if line.get("path") == IMAGES]
    assert (access["method"], access["status"]) == ("POST", 200)
    assert access["seconds"] > 0
    assert access["request_id"] == answer.headers["x-request-id"]
    assert [line["request_id"] for line in lines if "caller" in line] == [access["request_id"]]
    text = json.dumps(lines)
    assert "purple" not in text
    assert "sk-secret" not in text


def test_prompts_are_logged_when_asked_for(
    small_backend: ThreadBackend, make_app: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client = TestClient(make_app(small_backend, log_prompts=True)[0])
    client.post(IMAGES, json={"prompt": "a purple heart"})
    assert [record.prompt for record in caplog.records if hasattr(record, "prompt")] == ["a purple heart"]
