"""A server: from its start to readiness and to its first picture, and its memory."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bench.provenance import provenance


@dataclass(frozen=True)
class Serving:
    """A server: seconds from its start to readiness and to its first picture, and its memory after pictures, in bytes."""

    ready_seconds: float
    first_picture_seconds: float
    memory_bytes: int


def measure_serving(model: str, *, threads: int, pictures: int = 8) -> Serving:
    """Start `focusdiff-serve` on the CPU, ask for pictures, stop it."""
    port = free_port()
    command = [sys.executable, "-m", "serve.command", "--model", model, "--port", str(port), "--device", "cpu"]
    return _measure(command, port, pictures=pictures, patience=120, environment={"OMP_NUM_THREADS": str(threads)})


def measure_fresh_machine(model: str) -> Serving:
    """`make serve` in a new clone of this repository, with no virtual environment and no cache of packages."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(__file__).resolve().parents[1]
        subprocess.run(["git", "clone", "--quiet", str(here), folder], check=True)
        where = Path(model).resolve() if Path(model).exists() else model  # make runs elsewhere
        command = ["make", "-C", folder, "serve", f"MODEL={where}", f"PORT={port}", f"PYTHON={sys.executable}"]
        return _measure(command, port, pictures=1, patience=1800, environment={"PIP_NO_CACHE_DIR": "1"})


def _measure(command: list[str], port: int, *, pictures: int, patience: float, environment: dict[str, str]) -> Serving:
    started = time.perf_counter()
    # its own process group: make does not hand signals on to what it started
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | environment,
    )
    try:
        _wait_until_up(server, port, started + patience)
        ready = time.perf_counter() - started
        first, held = 0.0, 0
        for seed in range(pictures):
            body = json.dumps({"prompt": "four red circles", "seed": seed}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/images/generations", body, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                answer.read()
            first = first or time.perf_counter() - started
            held = max(held, memory(server.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself, which is being reported
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    return Serving(ready, first, held)


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_up(server: "subprocess.Popen[bytes]", port: int, deadline: float) -> None:
    while time.perf_counter() < deadline:
        if server.poll() is not None:
            raise ChildProcessError(f"the server ended with code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("the server did not come up in time")


def memory(pid: int) -> int:
    """Resident bytes of a process and of those that it started, where Linux says so what they share counted once."""
    total = 0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss
    return total


def report(model: str, *, threads: int, fresh: bool) -> str:
    """A table for people and one JSON line for machines; with `fresh`, `make serve` from a new clone as well."""
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, not {threads}")
    serving = measure_serving(model, threads=threads)
    place = provenance(device="cpu", dtype="float32") | {"threads": threads}
    lines = [
        f"{model}, {', '.join(f'{k} {v}' for k, v in place.items())}",
        f"server started to first picture    {serving.first_picture_seconds:7.2f} s  (ready {serving.ready_seconds:.2f})",
        f"server's memory                    {serving.memory_bytes / 2**20:7.0f} MiB",
    ]
    result = {"model": model, **place, "serving": asdict(serving)}
    if fresh:
        setup = measure_fresh_machine(model)
        lines.append(f"make serve, new clone to picture    {setup.first_picture_seconds:7.1f} s")
        result["fresh"] = {"first_picture_seconds": setup.first_picture_seconds}
    return "\n".join([*lines, json.dumps(result)])
