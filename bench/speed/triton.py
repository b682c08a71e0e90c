"""A server that draws by its own engine beside a front of Triton, over HTTP: throughput and latency.

Both run at the same time and are measured in turn, several times with new processes.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.measurements.measurement import Measurement, Number
from bench.speed.clients import TIMEOUT_SECONDS, latency, saturate
from bench.speed.server_process import free_port, running, serve_command
from pairs.scores import mean
from train.provenance import provenance

_SINGLE = 20  # images, one at a time, on each side of a round


@dataclass(frozen=True)
class Side:
    """Figures of one server in one round: images per second when saturated, and seconds of single images."""

    throughput: float
    latencies: list[float]

    @property
    def latency(self) -> float:
        """Median seconds of a single image."""
        return statistics.median(self.latencies)


def report(
    model: str, *, threads: int, slots: int, seconds: float, times: int, show: Callable[[str], None]
) -> Measurement:
    """Measure both in several rounds.

    Args:
        model: shipped name or folder.
        threads: of each engine.
        slots: guided images drawn at once.
        seconds: of each load.
        times: rounds, each with new processes.
        show: called with a table line for each round, then a summary.
    """
    place = provenance(device="cpu", dtype="float32") | {"threads": threads}
    show(f"{model}, {slots} slots, {', '.join(f'{k} {v}' for k, v in place.items())}")
    show("round  engine images/s  Triton images/s  ratio   engine p50 s  Triton p50 s  added ms")
    rounds: list[tuple[Side, Side]] = []
    for number in range(times):
        with _servers(model, slots=slots, threads=threads) as (engine, triton):
            ours, theirs = _side_by_side(engine, triton, slots, seconds)
        rounds.append((ours, theirs))
        show(
            f"{number:5d} {ours.throughput:16.2f} {theirs.throughput:16.2f} {theirs.throughput / ours.throughput:6.3f}"
            f" {ours.latency:14.4f} {theirs.latency:13.4f} {1000 * (theirs.latency - ours.latency):9.1f}"
        )
    ratios = [theirs.throughput / ours.throughput for ours, theirs in rounds]
    added = [1000 * (theirs.latency - ours.latency) for ours, theirs in rounds]
    show(f"throughput by Triton: {mean(ratios)} of the engine's; latency of an image: {mean(added).value:+.1f} ms")
    numbers = [
        Number.of_rounds("throughput of a front ÷ engine's", ratios, "ratio", "higher"),
        Number.of_rounds("latency added by a front", added, "ms", "lower"),
    ]
    workload = {"model": model, "slots": slots, "seconds": seconds, "times": times}
    return Measurement("triton", workload, place, numbers)


@contextlib.contextmanager
def _servers(model: str, *, slots: int, threads: int) -> Iterator[tuple[str, str]]:
    """URLs of a server with its own engine, and of a front of Triton."""
    ports = [free_port() for _ in range(5)]
    limits = ("--slots", str(slots), "--queue", str(max(20, 4 * slots)), "--log-level", "warning")
    environment = {"OMP_NUM_THREADS": str(threads)}
    with contextlib.ExitStack() as stack:
        engine = serve_command([model], ports[0], "--device", "cpu", *limits, "--no-ui")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "repository"
        given = ("--grpc-port", ports[1], "--http-port", ports[2], "--metrics-port", ports[3])
        triton = [sys.executable, "-m", "serve.triton.command", folder, "--serve", "--model", f"bench={model}", *given]
        triton += ["--device", "cpu", "--drain-seconds", "10", *limits]
        front = serve_command(
            ["bench"], ports[4], "--backend", "triton", "--triton-url", f"127.0.0.1:{ports[1]}", "--no-ui"
        )
        urls = []
        for command, port, path in (
            (engine, ports[0], "/health/ready"),
            ([*map(str, triton)], ports[2], "/v2/health/ready"),
            ([*front, "--log-level", "warning"], ports[4], "/health/ready"),
        ):
            one = running(command, port, path=path, patience=TIMEOUT_SECONDS, environment=environment)
            urls.append(stack.enter_context(one).url)
        yield urls[0], urls[2]


def _side_by_side(engine: str, triton: str, slots: int, seconds: float) -> tuple[Side, Side]:
    """Figures of both, from two time slices each, in ABBA order, and from single images in turn."""
    drawn: dict[str, list[float]] = {engine: [], triton: []}
    for url in (engine, triton, triton, engine):
        drawn[url].append(asyncio.run(saturate(url, slots, seconds / 2)))
    single: dict[str, list[float]] = {engine: [], triton: []}
    for number in range(_SINGLE + 1):
        for url in (engine, triton) if number % 2 else (triton, engine):
            single[url].append(asyncio.run(latency(url, number)))
    return tuple(Side(statistics.mean(drawn[url]), single[url][1:]) for url in (engine, triton))  # type: ignore[return-value]
