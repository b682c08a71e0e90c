"""A server under load: latencies and refusals at multiples of its capacity, and the cost of HTTP.

Capacity is the throughput while more clients wait than there are slots. Then images arrive at random (Poisson) at
each multiple of capacity, whether or not earlier ones are done, as from real users; each arrival is one streamed
request with one preview.

An engine alone, in its own process with as many threads, shows the cost of HTTP and encoding. Both are measured in
turn, several times with new processes: one process can be some three per cent faster than another of the same code,
for its whole life.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from bench.speed.clients import PROMPT, TIMEOUT_SECONDS, Answer, arrive, saturate
from bench.speed.engine_alone import EngineAlone
from bench.speed.server_process import ServerProcess, free_port, running, serve_command
from pairs.scores import mean
from train.provenance import provenance


@dataclass
class Round:
    """Requests at one arrival rate; `memory` is the server's in bytes, before and after."""

    factor: float
    rate: float
    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)

    def count(self, status: int) -> int:
        """Number of answers with this status."""
        return sum(answer.status == status for answer in self.answers)

    @property
    def drawn_per_second(self) -> float:
        """Images drawn, divided by the seconds until the last answer."""
        return self.count(200) / self.seconds

    def percentiles(self, values: Sequence[float]) -> list[float]:
        """p50, p95 and p99; NaN for fewer than two values."""
        if len(values) < 2:
            return [float("nan")] * 3
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return [cuts[49], cuts[94], cuts[98]]


def report(
    model: str, *, threads: int, slots: int, seconds: float, factors: Sequence[float], times: int = 6
) -> Iterator[str]:
    """Yield table lines as they are measured, then one JSON line.

    Args:
        model: shipped name or folder.
        threads: of the server, and of the engine alone.
        slots: guided images drawn at once.
        seconds: of each load, and of all comparisons together.
        factors: loads, as multiples of the capacity.
        times: pairs of a new server and a new engine process that are compared.

    Raises:
        ValueError: a number is not above 0.
    """
    for name, value in (
        ("threads", threads),
        ("slots", slots),
        ("seconds", seconds),
        *(("factors", f) for f in factors),
    ):
        if value <= 0:
            raise ValueError(f"--{name} must be above 0, not {value:g}")
    place = provenance(device="cpu", dtype="float32") | {"threads": threads}
    yield f"{model}, {slots} slots, {', '.join(f'{k} {v}' for k, v in place.items())}"
    capacities, alone = [], []
    for _ in range(times):
        with (
            _server(model, slots=slots, threads=threads) as server,
            EngineAlone(model, PROMPT, slots=slots, threads=threads) as engine,
        ):
            over_http, of_engine = _side_by_side(server.url, engine, slots, seconds / (2 * times))
        capacities.append(over_http)
        alone.append(of_engine)
    capacity, share = statistics.mean(capacities), mean(h / e for h, e in zip(capacities, alone, strict=True))
    yield (
        f"capacity over HTTP {capacity:.2f} images/s, engine alone {statistics.mean(alone):.2f}: "
        f"{share} of it, {share.count} times with new processes"
    )
    yield (
        "   load  arrive/s  arrived     200     429   lost  images/s    p50    p95    p99 "
        " preview p50    p95    p99  memory MiB"
    )
    rounds = []
    with _server(model, slots=slots, threads=threads) as server:
        for factor in factors:
            one = Round(factor, factor * capacity)
            before, started = server.memory_bytes, time.perf_counter()
            one.answers = asyncio.run(arrive(server.url, rate=one.rate, seconds=seconds))
            one.seconds = time.perf_counter() - started
            one.memory = before, server.memory_bytes
            rounds.append(one)
            yield _line(one)
    yield json.dumps(
        {"model": model, "slots": slots, **place, "capacity": capacities, "engine_alone": alone, "share": share.value}
        | {
            "rounds": [
                {
                    "factor": one.factor,
                    "arrived": len(one.answers),
                    "answered": {str(s): one.count(s) for s in sorted({a.status for a in one.answers})},
                    "images_per_second": one.drawn_per_second,
                    "latency": one.percentiles([a.latency for a in one.answers if a.status == 200]),
                    "preview": one.percentiles([a.preview for a in one.answers if a.preview is not None]),
                    "memory": one.memory,
                }
                for one in rounds
            ]
        }
    )


def _line(one: Round) -> str:
    latency = one.percentiles([answer.latency for answer in one.answers if answer.status == 200])
    preview = one.percentiles([answer.preview for answer in one.answers if answer.preview is not None])
    lost = len(one.answers) - one.count(200) - one.count(429)
    before, after = (bytes / 2**20 for bytes in one.memory)
    return (
        f"{one.factor:6.2f}× {one.rate:9.2f} {len(one.answers):8d} {one.count(200):7d} {one.count(429):7d} {lost:6d}"
        f" {one.drawn_per_second:9.2f} {latency[0]:6.2f} {latency[1]:6.2f} {latency[2]:6.2f}"
        f" {preview[0]:12.2f} {preview[1]:6.2f} {preview[2]:6.2f}  {before:.0f} → {after:.0f}"
    )


def _server(model: str, *, slots: int, threads: int) -> AbstractContextManager[ServerProcess]:
    port = free_port()
    more = (
        "--device",
        "cpu",
        "--slots",
        str(slots),
        "--queue",
        str(max(20, 4 * slots)),
        "--log-level",
        "warning",
        "--no-ui",
    )
    command = serve_command([model], port, *more)
    return running(command, port, patience=TIMEOUT_SECONDS, environment={"OMP_NUM_THREADS": str(threads)})


def _side_by_side(url: str, engine: EngineAlone, slots: int, seconds: float) -> tuple[float, float]:
    """Images per second over HTTP and of the engine alone, from two time slices each, in ABBA order."""
    over_http, alone = [], []
    for http in (True, False, False, True):
        if http:
            over_http.append(asyncio.run(saturate(url, slots, seconds)))
        else:
            alone.append(engine.saturate(seconds))
    return statistics.mean(over_http), statistics.mean(alone)
