"""An accepted job that may be drawn more than once, while its client sees each event once. Imports no torch."""

from dataclasses import dataclass, field, replace

from serve.backends.generation import Generation
from serve.engine.events import Ended, Event, Failed, Finished, Preview, Queued, Started
from serve.engine.job import Job


@dataclass(eq=False)
class Progress:
    """Progress of a job over all attempts to draw it.

    starts: attempts in which at least one image was started.
    ended: images that finished or failed.
    """

    generation: Generation
    starts: int = 0
    ended: set[int] = field(default_factory=set)
    _indices: tuple[int, ...] = ()  # of the present attempt's images, in the job
    _begun: bool = False  # whether the present attempt has started an image
    _running: set[int] = field(default_factory=set)  # images that it has started, and not ended
    _queued: bool = False
    _started: set[int] = field(default_factory=set)
    _rows: dict[int, int] = field(default_factory=dict)  # of each image's latest preview

    @property
    def waiting(self) -> int:
        """Images that have no slot."""
        return self.unfinished - self.running

    @property
    def running(self) -> int:
        """Images that are being drawn."""
        return len(self._running)

    @property
    def unfinished(self) -> int:
        """Images that are still to be drawn."""
        return self.generation.job.images - len(self.ended)

    def begin(self) -> Job:
        """Begin an attempt; returns the job of the images that are still to be drawn."""
        job = self.generation.job
        self._begun = False
        self._indices = tuple(index for index in range(job.images) if index not in self.ended)
        return replace(job, seeds=tuple(job.seeds[index] for index in self._indices))

    def stop(self) -> None:
        """End the present attempt: its images that have not ended wait again."""
        self._running.clear()

    def take(self, event: Event) -> None:
        """Count an event of the present attempt; the client gets it unless an earlier attempt had the same."""
        if isinstance(event, Queued):
            if not self._queued:
                self._queued = True
                self.generation.put(event)
            return
        assert not isinstance(event, Ended)  # the backend ends a job, not an attempt
        index = self._indices[event.index]
        new = True
        match event:
            case Started():
                if not self._begun:
                    self._begun = True
                    self.starts += 1
                self._running.add(index)
                new = index not in self._started
                self._started.add(index)
            case Preview(rows=rows):
                new = rows > self._rows.get(index, 0)
                self._rows[index] = max(rows, self._rows.get(index, 0))
            case Finished() | Failed():
                self._running.discard(index)
                self.ended.add(index)
        if new:
            self.generation.put(replace(event, index=index))
