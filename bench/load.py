"""A server under load: arrivals that do not wait for answers, at shares of what it can do, and what HTTP costs.

Capacity is what the server draws while more clients wait than it has slots. Then images arrive at
random (Poisson) at each factor of it, whether or not the earlier ones are done, as they would from
people; each arrival is one streamed request with one preview. The engine alone, in a process of its
own with as many threads, says what HTTP and encoding cost; both are measured in turn, several times
with new processes: on the same code one is some three per cent faster than another, as long as it lives.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import httpx

from bench.provenance import provenance
from bench.startup import free_port, memory
from pairs.scores import mean

_PROMPT = "three red circles and a blue star"
_TIMES = 6  # that a server is compared with an engine alone, each with new processes
_PATIENCE = 180.0  # seconds for a server to come up, and for any answer


@dataclass(frozen=True)
class Answer:
    """What became of one arrival: its status (0 if the connection broke), and seconds to preview and picture."""

    status: int
    preview: float | None
    latency: float


@dataclass
class Round:
    """All arrivals at one rate; `memory` is the server's bytes before and after."""

    factor: float
    rate: float
    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)

    def share(self, status: int) -> int:
        """Arrivals with this status."""
        return sum(answer.status == status for answer in self.answers)

    @property
    def drawn_per_second(self) -> float:
        """Images that came, over the time until the last did."""
        return self.share(200) / self.seconds

    def percentiles(self, values: Sequence[float]) -> list[float]:
        """p50, p95 and p99; NaN where there is nothing to rank."""
        if len(values) < 2:
            return [float("nan")] * 3
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return [cuts[49], cuts[94], cuts[98]]


def report(model: str, *, threads: int, slots: int, seconds: float, factors: Sequence[float]) -> Iterator[str]:
    """Lines of a table as they come, then one JSON line.

    Raises:
        ValueError: a number that cannot be used.
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
    for _ in range(_TIMES):
        with (
            _server(model, slots=slots, threads=threads) as (url, _),
            _EngineAlone(model, slots=slots, threads=threads) as engine,
        ):
            over_http, of_engine = _side_by_side(url, engine, slots, seconds / (2 * _TIMES))
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
    with _server(model, slots=slots, threads=threads) as (url, pid):
        for factor in factors:
            one = Round(factor, factor * capacity)
            asyncio.run(_arrive(url, one, seconds, pid))
            rounds.append(one)
            yield _line(one)
    yield json.dumps(
        {"model": model, "slots": slots, **place, "capacity": capacities, "engine_alone": alone, "share": share.value}
        | {
            "rounds": [
                {
                    "factor": one.factor,
                    "arrived": len(one.answers),
                    "answered": {str(s): one.share(s) for s in sorted({a.status for a in one.answers})},
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
    lost = len(one.answers) - one.share(200) - one.share(429)
    before, after = (bytes / 2**20 for bytes in one.memory)
    return (
        f"{one.factor:6.2f}× {one.rate:9.2f} {len(one.answers):8d} {one.share(200):7d} {one.share(429):7d} {lost:6d}"
        f" {one.drawn_per_second:9.2f} {latency[0]:6.2f} {latency[1]:6.2f} {latency[2]:6.2f}"
        f" {preview[0]:12.2f} {preview[1]:6.2f} {preview[2]:6.2f}  {before:.0f} → {after:.0f}"
    )


@contextlib.contextmanager
def _server(model: str, *, slots: int, threads: int) -> Iterator[tuple[str, int]]:
    """A new server: its address, and its process."""
    port = free_port()
    command = [sys.executable, "-m", "serve.command", "--model", model, "--port", str(port), "--device", "cpu"]
    command += ["--slots", str(slots), "--queue", str(max(20, 4 * slots)), "--log-level", "warning", "--no-ui"]
    server = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, server)
        yield url, server.pid
    finally:
        server.terminate()
        server.wait(60)


def _wait(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ChildProcessError(f"the server ended with code {server.returncode}")
        try:
            if httpx.get(f"{url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError("the server did not come up in time")


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_PATIENCE, limits=httpx.Limits(max_connections=None))


async def _saturate(url: str, slots: int, seconds: float) -> float:
    """Images a second while twice as many clients as slots ask again as soon as they are answered.

    Images that begin at the same step stay together, since each is followed by one that waits, and cost
    less than others. So each slot's first begins when the one before has begun, and none does so together.

    Raises:
        ConnectionError: one of them was not answered.
        TimeoutError: the model is too slow for so many slots.
    """
    done: list[float] = []
    stop = time.perf_counter() + seconds + _PATIENCE
    accepted = [asyncio.Event() for _ in range(slots)]

    async def ask_again(client: httpx.AsyncClient, number: int) -> None:
        if number > 0:
            await accepted[min(number, slots) - 1].wait()
        seed = number
        told = accepted[number] if number < slots else None
        while time.perf_counter() < stop:
            answer = await _ask(client, url, seed, told)
            if answer.status != 200:
                raise ConnectionError(f"a saturating client was answered with status {answer.status}")
            done.append(time.perf_counter())
            seed += 2 * slots
            told = None

    async with _client() as client:
        asking = [asyncio.create_task(ask_again(client, number)) for number in range(2 * slots)]
        while len(done) < 2 * slots:
            await asyncio.sleep(0.001)
            for task in asking:
                if task.done():
                    task.result()
            if all(task.done() for task in asking):
                raise TimeoutError(f"{len(done)} images came in time, too few to measure: give fewer --slots")
        begun = time.perf_counter()
        stop = begun + seconds
        await asyncio.gather(*asking)
    return sum(begun < moment <= stop for moment in done) / seconds


def _side_by_side(url: str, engine: "_EngineAlone", slots: int, seconds: float) -> tuple[float, float]:
    """Images a second over HTTP and of the engine alone: two slices of time each, in turn, each once first."""
    over_http, alone = [], []
    for http in (True, False, False, True):
        if http:
            over_http.append(asyncio.run(_saturate(url, slots, seconds)))
        else:
            alone.append(engine.saturate(seconds))
    return statistics.mean(over_http), statistics.mean(alone)


class _EngineAlone:
    """The process of `bench.engine_alone`."""

    def __init__(self, model: str, *, slots: int, threads: int) -> None:
        command = [sys.executable, "-m", "bench.engine_alone", model, _PROMPT]
        command += ["--slots", str(slots), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def saturate(self, seconds: float) -> float:
        """Images a second.

        Raises:
            ChildProcessError: it has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(seconds, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"the engine alone ended with code {self._process.wait()}")
        return float(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


async def _arrive(url: str, one: Round, seconds: float, pid: int) -> None:
    """Let images arrive for so long, then wait for every answer."""
    before = memory(pid)
    started = time.perf_counter()
    async with _client() as client:
        asking = []
        moment, seed, source = started, 0, random.Random(0)
        while True:
            moment += source.expovariate(one.rate)
            if moment > started + seconds:
                break
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            asking.append(asyncio.create_task(_ask(client, url, seed)))
            seed += 1
        one.answers = list(await asyncio.gather(*asking))
    one.seconds = time.perf_counter() - started
    one.memory = before, memory(pid)


async def _ask(client: httpx.AsyncClient, url: str, seed: int, told: asyncio.Event | None = None) -> Answer:
    """One image with one preview; `told` is set when it has been accepted."""
    started = time.perf_counter()
    body = {"prompt": _PROMPT, "seed": seed, "stream": True, "partial_images": 1, "queue_events": told is not None}
    preview, completed = None, False
    try:
        async with client.stream("POST", f"{url}/v1/images/generations", json=body) as answer:
            async for line in answer.aiter_lines():
                if line == "event: image_generation.partial_image":
                    preview = time.perf_counter() - started
                if told and line == "event: image_generation.queued":
                    told.set()
                completed |= line == "event: image_generation.completed"
    except httpx.TransportError:
        return Answer(0, preview, time.perf_counter() - started)
    status = answer.status_code if completed or answer.status_code != 200 else 0
    return Answer(status, preview, time.perf_counter() - started)
