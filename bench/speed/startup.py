"""Start of a server: seconds until ready and to the first picture, and memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.measurements.measurement import Measurement, Number
from bench.speed.server_process import free_port, running, serve_command
from train.provenance import provenance


@dataclass(frozen=True)
class Serving:
    """Seconds from a server's start until ready and to its first picture; peak memory in bytes after a picture."""

    ready_seconds: float
    first_picture_seconds: float
    memory_bytes: int


def measure_serving(model: str, *, threads: int, pictures: int = 8) -> Serving:
    """Start `focusdiff-serve` on the CPU, draw pictures and stop it."""
    port = free_port()
    command = serve_command([model], port, "--device", "cpu", "--log-level", "warning")
    return _measure(command, port, pictures=pictures, patience=120, environment={"OMP_NUM_THREADS": str(threads)})


def measure_fresh_machine(model: str) -> Serving:
    """Measure `make serve` in a new clone of this repository, without virtual environment or package cache."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(__file__).resolve().parents[2]
        subprocess.run(["git", "clone", "--quiet", str(here), folder], check=True)
        where = Path(model).resolve() if Path(model).exists() else model  # make runs in another folder
        command = ["make", "-C", folder, "serve", f"MODEL={where}", f"PORT={port}", f"PYTHON={sys.executable}"]
        return _measure(command, port, pictures=1, patience=1800, environment={"PIP_NO_CACHE_DIR": "1"})


def _measure(
    command: Sequence[str], port: int, *, pictures: int, patience: float, environment: Mapping[str, str]
) -> Serving:
    with (
        httpx.Client(timeout=120, verify=False) as client,
        running(command, port, patience=patience, environment=environment) as server,
    ):
        first, held = 0.0, 0
        for seed in range(pictures):
            body = {"prompt": "four red circles", "seed": seed}
            client.post(f"{server.url}/v1/images/generations", json=body).raise_for_status()
            first = first or time.perf_counter() - server.started
            held = max(held, server.memory_bytes)
        return Serving(server.ready_seconds, first, held)


def report(model: str, *, threads: int, fresh: bool, show: Callable[[str], None]) -> Measurement:
    """Measure a start; with `fresh`, also time `make serve` in a new clone.

    Args:
        model: shipped name or folder.
        threads: CPU threads.
        fresh: whether a new clone is measured.
        show: called with lines as they are measured.

    Raises:
        ValueError: threads is below 1.
    """
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, not {threads}")
    place = provenance(device="cpu", dtype="float32") | {"threads": threads}
    show(f"{model}, {', '.join(f'{k} {v}' for k, v in place.items())}")
    serving = measure_serving(model, threads=threads)
    first, ready, memory = serving.first_picture_seconds, serving.ready_seconds, serving.memory_bytes / 2**20
    show(f"server started to first picture    {first:7.2f} s  (ready {ready:.2f})")
    show(f"server's memory                    {memory:7.0f} MiB")
    numbers = [
        Number("start to ready", ready, "s", "lower"),
        Number("start to first picture", first, "s", "lower"),
        Number("server's memory", memory, "MiB", "lower"),
    ]
    if fresh:
        first = measure_fresh_machine(model).first_picture_seconds
        show(f"make serve, new clone to picture    {first:7.1f} s")
        numbers.append(Number("new clone to first picture", first, "s", "lower"))
    return Measurement("startup", {"model": model, "fresh": fresh}, place, numbers)
