"""A real Triton server that serves checkpoints, started by `focusdiff-triton` in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

READY_SECONDS = 240.0


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class TritonProcess:
    """Serves models by Triton; may be killed and started again at the same address.

    Args:
        folder: for the repository and the log.
        models: checkpoint folders, or shipped names, by name.
        options: more arguments of `focusdiff-triton`.
    """

    def __init__(self, folder: Path, models: Mapping[str, str | Path], *options: str) -> None:
        self._folder = folder
        self.grpc_port, http_port, metrics_port = free_ports(3)
        self.url = f"127.0.0.1:{self.grpc_port}"
        ports = ("--grpc-port", self.grpc_port, "--http-port", http_port, "--metrics-port", metrics_port)
        sources = [part for name, source in models.items() for part in ("--model", f"{name}={source}")]
        serve = (
            "triton",
            "--serve",
            *ports,
            *sources,
            "--device",
            "cpu",
            "--drain-seconds",
            "10",
            *options,
        )
        self._command = [sys.executable, "-m", "serve.triton.command", *map(str, serve)]
        self._http = ("127.0.0.1", http_port)
        self.start()

    def start(self) -> None:
        """Start it; `wait_until_ready` returns once it serves."""
        with open(self._folder / "log", "ab") as log:
            # in the folder of a repository called `triton`, which must not pass for the package of that name
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=_environment(), cwd=self._folder
            )

    def wait_until_ready(self) -> None:
        """Wait until Triton listens, which it does once all models are loaded."""
        until = time.monotonic() + READY_SECONDS
        while not self._listens:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.05)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def _listens(self) -> bool:
        """Whether Triton answers; it listens once all models are loaded."""
        with socket.socket() as attempt:
            return attempt.connect_ex(self._http) == 0

    @property
    def log(self) -> str:
        """Everything that was printed."""
        return (self._folder / "log").read_text()

    @property
    def supervisor(self) -> psutil.Process:
        return psutil.Process(self._process.pid)

    @property
    def triton(self) -> psutil.Process:
        return self._below(self.supervisor, "tritonserver")

    @property
    def stub(self) -> psutil.Process:
        return self._below(self.triton, "triton_python_b")

    @property
    def engine(self) -> psutil.Process:
        return self._below(self.stub, "python", containing="spawn_main")

    @property
    def engines(self) -> list[psutil.Process]:
        """The engines of all models."""
        below = self.triton.children(recursive=True)
        return [one for one in below if "spawn_main" in " ".join(one.cmdline())]

    @property
    def tree(self) -> list[psutil.Process]:
        """All its processes."""
        return [self.supervisor, *self.supervisor.children(recursive=True)]

    def wait(self) -> int:
        """Exit code, once it has ended."""
        return self._process.wait(READY_SECONDS)

    def close(self) -> int:
        """Tell it to stop and return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def _below(self, parent: psutil.Process, name: str, *, containing: str = "") -> psutil.Process:
        found = [
            one for one in parent.children() if one.name().startswith(name) and containing in " ".join(one.cmdline())
        ]
        assert len(found) == 1, (name, found)
        return found[0]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
