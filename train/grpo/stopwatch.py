"""Seconds that the parts of a step take."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by the name of a part; on a GPU, only parts that end with a result on the host are true."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._core_seconds = time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part of the step."""
        begun = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - begun

    @property
    def core_seconds(self) -> float:
        """Seconds that this process has computed since the start, all its threads together."""
        return time.process_time() - self._core_seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far, named "seconds: <part>"."""
        return {f"seconds: {name}": seconds for name, seconds in self._seconds.items()}
