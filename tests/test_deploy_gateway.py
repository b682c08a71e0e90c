"""Servers behind nginx, configured by deploy/nginx: no request fails while they are replaced, and streams flow."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from bench.speed.server_process import free_port
from serve.settings.server import Settings
from tests.serve_process import IMAGES, ServeProcess
from tests.tools import needs_nginx

CONFIGURATION = Path(__file__).parent.parent / "deploy" / "nginx" / "focusdiff.conf"


@contextmanager
def gateway(folder: Path, *ports: int) -> Iterator[str]:
    """Run nginx with our configuration, without TLS, for servers on these ports of this machine; yields its URL."""
    port = free_port()
    text = CONFIGURATION.read_text()
    text, changed = re.subn(r"listen 443 ssl;\n.*\n.*\n", f"listen 127.0.0.1:{port};\n", text)
    assert changed == 1
    (given, *others) = re.findall(r"server 127\.0\.0\.1:\d+(.*;)\n", text)
    servers = "".join(f"    server 127.0.0.1:{one}{given}\n" for one in ports)
    text = re.sub(r"(    server 127\.0\.0\.1:\d+.*\n)+", servers, text)
    assert others
    (folder / "focusdiff.conf").write_text(text)
    paths = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors; events {{}}\n"
        f"http {{ access_log off; {paths} include {folder}/focusdiff.conf; }}"
    )
    process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "errors"])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, (folder / "errors").read_text()
            assert time.monotonic() < deadline
            with suppress(httpx.TransportError):
                httpx.get(url)
                break
        yield url
    finally:
        process.kill()
        process.wait()


def test_the_gateway_waits_longer_and_takes_as_much_as_a_server() -> None:
    text, settings = CONFIGURATION.read_text(), Settings()
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(seconds) >= settings.request_seconds + 60  # `Service.stream_seconds`
    (mib,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(mib) >= settings.max_body_mib


@needs_nginx
@pytest.mark.long
def test_no_request_fails_while_servers_are_replaced_one_after_the_other(small_folder: Path, tmp_path: Path) -> None:
    """A rolling update while three clients draw: one server is stopped and started again, then the other is stopped."""
    ports = free_port(), free_port()
    statuses: list[int] = []
    events: list[str] = []
    stop = threading.Event()

    def client(url: str, *, stream: bool) -> None:
        while not stop.wait(1):  # so that a server that starts has the cores
            answer = httpx.post(url + IMAGES, json={"prompt": "a star", "n": 2, "stream": stream}, timeout=60)
            statuses.append(answer.status_code)
            events.extend(re.findall(r"^event: (.*)$", answer.text, re.MULTILINE))

    with ExitStack() as stack:

        def start(port: int) -> ServeProcess:
            return stack.enter_context(ServeProcess(small_folder, port=port))

        url = stack.enter_context(gateway(tmp_path, *ports))
        old = [start(port) for port in ports]
        for one in old:
            one.wait_until_ready()
        threads = [threading.Thread(target=client, args=(url,), kwargs={"stream": i % 2 == 0}) for i in range(3)]
        for thread in threads:
            thread.start()
        for one in old:
            before = len(statuses)
            while len(statuses) < before + 10 and any(thread.is_alive() for thread in threads):
                time.sleep(0.05)
            one.process.terminate()
            assert one.wait() == 0
            if one is old[0]:
                start(one.port).wait_until_ready()
        stop.set()
        for thread in threads:
            thread.join()
    assert len(statuses) > 20
    assert set(statuses) == {200}
    assert set(events) == {"image_generation.completed"}


@needs_nginx
def test_the_gateway_passes_events_on_at_once_and_only_the_api(small_folder: Path, tmp_path: Path) -> None:
    """An event of 200 bytes arrives while the engine is suspended, and so nothing follows it."""
    with (
        ThreadPoolExecutor(5) as pool,
        ServeProcess(small_folder, "--slots", "1", "--admin-key", "k") as server,
        gateway(tmp_path, server.port) as url,
    ):
        server.wait_until_ready()
        for path in ("/metrics", "/health/ready", "/admin/models", "/"):
            assert httpx.get(url + path, timeout=20).status_code == 404
        assert httpx.get(f"{url}/v1/models", timeout=20).status_code == 200
        engine = server.engine
        engine.suspend()
        before = [pool.submit(server.draw, n=10) for _ in range(5)]
        server.wait_until_waiting(50)
        last = {"prompt": "a star", "n": 10, "stream": True, "queue_events": True}
        with httpx.stream("POST", url + IMAGES, json=last, timeout=20) as stream:
            with httpx.stream("POST", server.url + IMAGES, json=last, timeout=20) as later:
                engine.resume()
                assert next(later.iter_lines()) == "event: image_generation.queued"  # so the earlier one is queued, too
                engine.suspend()  # long before the fifty images ahead are drawn
            lines = stream.iter_lines()
            try:
                assert next(lines) == "event: image_generation.queued"
            finally:
                engine.resume()
            assert list(lines).count("event: image_generation.completed") == 10
        assert {one.result().status_code for one in before} == {200}
