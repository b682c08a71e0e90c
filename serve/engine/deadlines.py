"""Jobs by the time at which they fail."""

from heapq import heapify, heappop, heappush
from itertools import count
from math import isfinite

from serve.engine.job import JobState

_SPARE = 256  # entries of ended jobs that are kept before the heap is cleaned


class Deadlines:
    """A heap of deadlines. Jobs that end before theirs stay in it until it has doubled."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, JobState]] = []
        self._order = count()  # equal deadlines are kept in order of arrival
        self._limit = _SPARE

    def add(self, state: JobState) -> None:
        """Watch a job; one without a deadline is ignored."""
        if state.job.deadline is None:
            return
        assert isfinite(state.job.deadline)
        heappush(self._heap, (state.job.deadline, next(self._order), state))
        if len(self._heap) > self._limit:
            self._heap = [entry for entry in self._heap if entry[2].live]
            heapify(self._heap)
            self._limit = 2 * len(self._heap) + _SPARE

    def pop_due(self, now: float) -> list[JobState]:
        """Remove and return the live jobs whose deadline is at or before `now`."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            state = heappop(self._heap)[2]
            if state.live:
                due.append(state)
        return due
