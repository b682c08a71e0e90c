"""The jobs that a backend has accepted and not yet ended. Imports no torch."""

import threading
from collections.abc import Callable
from itertools import count
from typing import Generic, Protocol, TypeVar

from serve.backends.errors import QueueFull
from serve.backends.generation import Generation
from serve.backends.model_info import ModelInfo
from serve.backends.protocol import Stats
from serve.engine.events import Cause, Ended
from serve.engine.job import Job


class Counted(Protocol):
    """A job whose images are counted: those without a slot, and those with one."""

    generation: Generation

    @property
    def waiting(self) -> int: ...

    @property
    def running(self) -> int: ...


J = TypeVar("J", bound=Counted)


class AcceptedJobs(Generic[J]):
    """Jobs by number. `with accepted:` holds its lock, which every call but `stats` needs.

    Whoever removes a job ends it.
    """

    def __init__(self) -> None:
        self._jobs: dict[int, J] = {}
        self._numbers = count()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def waiting(self) -> int:
        """Images without a slot."""
        return sum(job.waiting for job in self._jobs.values())

    def stats(self, *, slots: int, queue: int) -> Stats:
        """Counts of the jobs, as of their latest events."""
        with self:
            return Stats(sum(job.running for job in self._jobs.values()), self.waiting, slots, queue)

    def add(
        self, job: Job, info: ModelInfo, make: Callable[[Generation], J], cancel: Callable[[int], None]
    ) -> tuple[int, J]:
        """Add a job; returns its number and what counts its images.

        Args:
            job: what is drawn.
            info: the model that draws it.
            make: makes what counts its images.
            cancel: called with the number when the client leaves.
        """
        number = next(self._numbers)
        self._jobs[number] = counted = make(Generation(job, info, cancel=lambda: cancel(number)))
        return number, counted

    def get(self, number: int) -> J | None:
        """The job with this number, if it has not ended."""
        return self._jobs.get(number)

    def remove(self, number: int) -> J | None:
        """Take a job out, if it has not ended."""
        return self._jobs.pop(number, None)

    def end(self, cause: Cause, reason: str) -> list[int]:
        """End every job; returns their numbers."""
        for job in self._jobs.values():
            job.generation.put(Ended(cause, reason))
        numbers = list(self._jobs)
        self._jobs.clear()
        return numbers


def check_room(images: int, *, waiting: int, limit: int, wait_seconds: float) -> None:
    """Raise QueueFull if a new job exceeds the queue's limit.

    Args:
        images: of a new job.
        waiting: images that are in the queue.
        limit: the most images that it may have.
        wait_seconds: until those in it would have a slot.
    """
    excess = waiting + images - limit
    if excess > 0:
        # the queue empties evenly: there is room when this share of it is gone
        raise QueueFull(waiting, wait_seconds * min(1.0, excess / max(1, waiting)))
