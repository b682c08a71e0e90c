"""Start and stop a server in its own process."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx
import psutil

_STOP_SECONDS = 60


@dataclass(frozen=True)
class ServerProcess:
    """A ready server; `started` is the `time.perf_counter()` of its process start."""

    url: str
    pid: int
    started: float
    ready_seconds: float

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the server and its engines; on Linux shared memory is counted once (PSS)."""
        total = 0
        for process in (psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss
        return total


def serve_command(models: Sequence[str], port: int, *more: str) -> list[str]:
    """Command line of `focusdiff-serve`, with this interpreter."""
    named = [word for model in models for word in ("--model", model)]
    return [sys.executable, "-m", "serve.command", *named, "--port", str(port), *more]


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    *,
    path: str = "/health/ready",
    patience: float = 180,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """Start a server, wait until it is ready, and stop it at the end.

    Args:
        command: starts a server, directly or through make.
        port: port that the server listens on.
        path: answered with 200 once the server is ready.
        patience: seconds until it must be ready.
        environment: variables in addition to this process's.

    Raises:
        ChildProcessError: the server ended before it was ready.
        TimeoutError: the server was not ready in time.
    """
    started = time.perf_counter()
    # its own process group, because make does not forward signals to the server
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, start_new_session=True, env=os.environ | dict(environment or {})
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url + path, process, started + patience)
        yield ServerProcess(url, process.pid, started, time.perf_counter() - started)
    finally:
        with contextlib.suppress(ProcessLookupError):  # already ended
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(_STOP_SECONDS)


def free_port() -> int:
    """A free TCP port on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(url: str, process: "subprocess.Popen[bytes]", deadline: float) -> None:
    with httpx.Client(timeout=5, verify=False) as client:  # one for all: making its TLS context takes 30 ms
        while time.perf_counter() < deadline:
            if process.poll() is not None:
                raise ChildProcessError(f"the server ended with code {process.returncode}")
            with contextlib.suppress(httpx.TransportError):
                if client.get(url).status_code == 200:
                    return
            time.sleep(0.05)
    raise TimeoutError(f"the server at {url} was not ready in time")
