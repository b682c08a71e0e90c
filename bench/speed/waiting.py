"""Throughput of an engine by the wait policy of its threads, while other work keeps cores busy.

OpenMP's threads spin for a while before they sleep. On a free core the next piece of work then starts sooner; on a busy
one a spinning thread takes the core from the thread that it waits for.
"""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence

from bench.measurements.measurement import Measurement, Number
from bench.speed.clients import PROMPT
from bench.speed.engine_alone import EngineAlone
from pairs.scores import mean
from train.provenance import provenance

# what is set in an engine's environment, by name; libgomp's default is 300,000 turns, and 1,000 with too few cores
POLICIES: Mapping[str, Mapping[str, str]] = {
    "default": {},
    "short": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}


def report(
    model: str,
    *,
    threads: Sequence[int],
    slots: int,
    seconds: float,
    times: int,
    busy: Sequence[int],
    show: Callable[[str], None],
) -> Measurement:
    """Measure each number of threads with each number of busy processes.

    All engines run at the same time, and are measured in turn.

    Args:
        model: shipped name or folder.
        threads: numbers of threads of an engine.
        slots: guided images drawn at once.
        seconds: of each time slice.
        times: time slices of each engine.
        busy: numbers of processes that compute meanwhile.
        show: called with table lines as they are measured.
    """
    place = provenance(device="cpu", dtype="float32")
    show(f"{model}, {slots} slots, {', '.join(f'{k} {v}' for k, v in place.items())}")
    show("threads  busy  " + "  ".join(f"{name:>15}" for name in POLICIES) + "  images/s")
    numbers = []
    with contextlib.ExitStack() as stack:
        engines = {
            (count, name): stack.enter_context(
                EngineAlone(model, PROMPT, slots=slots, threads=count, environment=environment)
            )
            for count in threads
            for name, environment in POLICIES.items()
        }
        for engine in engines.values():
            engine.saturate(seconds)
        for others in busy:
            with _busy(others):
                rates: dict[tuple[int, str], list[float]] = {key: [] for key in engines}
                for turn in range(times):
                    for key in list(engines)[:: 1 if turn % 2 else -1]:
                        rates[key].append(engines[key].saturate(seconds))
            for count in threads:
                own = {name: rates[count, name] for name in POLICIES}
                show(f"{count:7d} {others:5d}  " + "  ".join(f"{mean(one)!s:>15}" for one in own.values()))
                numbers += [
                    Number.of_rounds(f"{count} threads, {others} busy, {name}", one, "images/s", "higher")
                    for name, one in own.items()
                ]
    workload = {"model": model, "slots": slots, "seconds": seconds, "times": times}
    return Measurement("waiting", workload, place, numbers)


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep `count` cores busy."""
    processes = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _compute() -> None:
    while True:
        sum(range(100_000))
