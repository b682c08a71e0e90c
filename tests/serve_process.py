"""A real server, started by `focusdiff-serve` in a process of its own."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import httpx
import psutil

from bench.speed.server_process import free_port

READY_SECONDS = 240.0
IMAGES = "/v1/images/generations"


class ServeProcess:
    """Serves a model, without the page; killed at the end of the `with` block.

    Its log is a file: a pipe that nobody reads fills up, and then the server waits for ever.

    Args:
        model: folder, or name of a model of Triton.
        arguments: more of the command line.
        planted: code that the server runs first, but not its engines.
        environment: variables in addition to this process's.
        port: to listen on; by default a free one.
    """

    def __init__(
        self,
        model: str | Path,
        *arguments: str,
        planted: str = "",
        environment: Mapping[str, str] = MappingProxyType({}),
        port: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        code = f"import serve.command\n{planted}\nserve.command.main()"
        command = [sys.executable, "-c", code, "--no-ui", "--model", str(model), "--port", str(self.port), *arguments]
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115  # closed by __exit__
        self.process = subprocess.Popen(
            command, stderr=self._log, stdout=subprocess.PIPE, text=True, env=os.environ | dict(environment)
        )

    def __enter__(self) -> "ServeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._log.close()

    @property
    def log(self) -> str:
        """What it has logged."""
        return Path(self._log.name).read_text()

    @property
    def engine(self) -> psutil.Process:
        """The process of its only engine; its other child belongs to multiprocessing."""
        (engine,) = [one for one in self.children if "spawn_main" in " ".join(one.cmdline())]
        return engine

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    @property
    def live(self) -> bool:
        """Whether it answers."""
        try:
            return self.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def status(self) -> str:
        """What it reports of itself."""
        health = self.get("/health/ready")
        status: str = health.json()["status"]
        assert (health.status_code == 200) == (status == "ready")
        return status

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    def draw(self, **body: object) -> httpx.Response:
        return httpx.post(self.url + IMAGES, json={"prompt": "a star"} | body, timeout=60)

    def wait_until_ready(self) -> set[str]:
        """Wait until it is ready; returns the states that it reported."""
        seen: set[str] = set()
        until = time.monotonic() + READY_SECONDS
        while "ready" not in seen:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            with suppress(httpx.TransportError):
                seen.add(self.status)
            time.sleep(0.05)
        return seen

    def wait_until_waiting(self, images: int) -> None:
        """Wait until at least so many images wait for a slot."""
        waiting = re.compile(r"waiting_images\{.*\} (\S+)")
        while not any(float(one) >= images for one in waiting.findall(self.get("/metrics").text)):
            assert self.process.poll() is None, self.log
            time.sleep(0.02)

    def wait(self) -> int:
        """Exit code, once it has ended."""
        return self.process.wait(120)
