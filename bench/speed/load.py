"""A server under load: latencies and refusals at multiples of its capacity, and the cost of HTTP.

Capacity is the throughput while more clients wait than there are slots. Then images arrive at random (Poisson) at
each multiple of capacity, whether or not earlier ones are done, as from real users; each arrival is one streamed
request with one preview.

An engine alone, in its own process with as many threads, shows the cost of HTTP and encoding. Both are measured in
turn, several times with new processes: one process can be some three per cent faster than another of the same code,
for its whole life.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from bench.measurements.measurement import Measurement, Number
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

    @property
    def lost(self) -> int:
        """Number of answers that are neither a picture nor a refusal."""
        return len(self.answers) - self.count(200) - self.count(429)

    @property
    def latencies(self) -> list[float]:
        """p50, p95 and p99 of the seconds to a picture."""
        return _percentiles([answer.latency for answer in self.answers if answer.status == 200])

    @property
    def previews(self) -> list[float]:
        """p50, p95 and p99 of the seconds to a preview."""
        return _percentiles([answer.preview for answer in self.answers if answer.preview is not None])

    @property
    def numbers(self) -> Iterator[Number]:
        """Its results."""
        load = f"load {self.factor:g}"
        yield Number(f"{load}: drawn", self.drawn_per_second, "images/s", "higher")
        yield Number(f"{load}: refused", self.count(429) / max(1, len(self.answers)), "share", "lower")
        yield Number(f"{load}: lost", self.lost, "requests", "lower")
        for what, values in (("picture", self.latencies), ("preview", self.previews)):
            for name, value in zip(_PERCENTILES, values, strict=True):
                yield Number(f"{load}: {what} {name}", value, "s", "lower")
        yield Number(f"{load}: memory", self.memory[1] / 2**20, "MiB", "lower")


_PERCENTILES = ("p50", "p95", "p99")


def _percentiles(values: Sequence[float]) -> list[float]:
    """p50, p95 and p99; NaN for fewer than two values."""
    if len(values) < 2:
        return [float("nan")] * 3
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return [cuts[49], cuts[94], cuts[98]]


def report(
    model: str,
    *,
    threads: int,
    slots: int,
    seconds: float,
    factors: Sequence[float],
    times: int = 6,
    show: Callable[[str], None],
) -> Measurement:
    """Measure capacity, the cost of HTTP, and each load.

    Args:
        model: shipped name or folder.
        threads: of the server, and of the engine alone.
        slots: guided images drawn at once.
        seconds: of each load, and of all comparisons together.
        factors: loads, as multiples of the capacity.
        times: pairs of a new server and a new engine process that are compared.
        show: called with table lines as they are measured.

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
    show(f"{model}, {slots} slots, {', '.join(f'{k} {v}' for k, v in place.items())}")
    capacities, alone = [], []
    for _ in range(times):
        with (
            _server(model, slots=slots, threads=threads) as server,
            EngineAlone(model, PROMPT, slots=slots, threads=threads) as engine,
        ):
            over_http, of_engine = _side_by_side(server.url, engine, slots, seconds / (2 * times))
        capacities.append(over_http)
        alone.append(of_engine)
    shares = [h / e for h, e in zip(capacities, alone, strict=True)]
    capacity = statistics.mean(capacities)
    show(
        f"capacity over HTTP {capacity:.2f} images/s, engine alone {statistics.mean(alone):.2f}: "
        f"{mean(shares)} of it, {times} times with new processes"
    )
    numbers = [
        Number.of_rounds("capacity over HTTP", capacities, "images/s", "higher"),
        Number.of_rounds("engine alone", alone, "images/s", "higher"),
        Number.of_rounds("capacity over HTTP ÷ engine alone", shares, "ratio", "higher"),
    ]
    show(
        "   load  arrive/s  arrived     200     429   lost  images/s    p50    p95    p99 "
        " preview p50    p95    p99  memory MiB"
    )
    with _server(model, slots=slots, threads=threads) as server:
        for factor in factors:
            one = Round(factor, factor * capacity)
            before, started = server.memory_bytes, time.perf_counter()
            one.answers = asyncio.run(arrive(server.url, rate=one.rate, seconds=seconds))
            one.seconds = time.perf_counter() - started
            one.memory = before, server.memory_bytes
            show(_line(one))
            numbers += one.numbers
    workload = {"model": model, "slots": slots, "seconds": seconds, "factors": list(factors), "times": times}
    return Measurement("load", workload, place, numbers)


def _line(one: Round) -> str:
    latency, preview = one.latencies, one.previews
    before, after = (bytes / 2**20 for bytes in one.memory)
    return (
        f"{one.factor:6.2f}× {one.rate:9.2f} {len(one.answers):8d} {one.count(200):7d} {one.count(429):7d} {one.lost:6d}"
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
