"""Which images are drawn next: first in, first out, into free rows of the KV cache."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain

from serve.engine.job import JobState
from serve.engine.slot import Slot


class Scheduler:
    """The waiting jobs, the running slots, and the free rows.

    Args:
        rows: KV rows; an even number.
        tokens: codes of an image, for which it keeps its rows.
    """

    def __init__(self, *, rows: int, tokens: int) -> None:
        assert rows % 2 == 0, rows
        self.rows = rows
        self.waiting: deque[JobState] = deque()
        self.running: list[Slot] = []
        self.waiting_images = 0  # without a slot
        self._waiting_rows = 0  # that the waiting images need
        self._tokens = tokens
        self._pairs = sorted(range(0, rows, 2), reverse=True)  # first rows of free pairs, the lowest last
        self._singles: list[int] = []  # free rows whose partner is taken

    @property
    def free_rows(self) -> int:
        return 2 * len(self._pairs) + len(self._singles)

    @property
    def codes_to_wait(self) -> int:
        """Codes that images gain until a guided one that is submitted now would start: no image ends early.

        As if all gained them at the same pace. Exact where all images are guided. Two free rows that are not a pair are
        counted as one, so with unguided images it can be a little too small.
        """
        # rows that become free are taken at once, and are free again when an image has all its codes
        rounds, more = divmod(self._waiting_rows + 1, self.rows)
        missing = more + 1
        soonest_first = ((self._tokens - slot.sampled, len(slot.rows)) for slot in self.running)
        for codes, rows in chain([(0, self.free_rows)], soonest_first):
            missing -= rows
            if missing <= 0:
                return rounds * self._tokens + codes
        raise AssertionError("rows are neither free nor taken")

    def submit(self, state: JobState) -> None:
        """Put a job at the end of the queue."""
        self.waiting.append(state)
        self._count(state, state.job.images)

    def coming(self) -> Iterator[JobState]:
        """The waiting jobs whose next images `admit` would give slots to, if all were ready."""
        pairs, singles = len(self._pairs), len(self._singles)
        for state in self.waiting:
            left = state.job.images - state.admitted
            if state.rows_per_image == 2:
                given = min(left, pairs)
                pairs -= given
            else:
                given = min(left, singles + 2 * pairs)
                broken = max(0, given - singles + 1) // 2
                pairs, singles = pairs - broken, singles + 2 * broken - given
            if given:
                yield state
            if given < left:
                return

    def admit(self, ready: Callable[[JobState], bool]) -> list[Slot]:
        """Give slots to waiting images in order of arrival while there are rows; none overtakes another.

        Args:
            ready: whether a job can begin.
        """
        admitted = []
        while self.waiting:
            state = self.waiting[0]
            rows = self._take(state.rows_per_image) if ready(state) else None
            if rows is None:
                break
            admitted.append(Slot(state, state.admitted, rows))
            state.admitted += 1
            state.status = "running"
            self._count(state, -1)
            if state.admitted == state.job.images:
                self.waiting.popleft()
        self.running += admitted
        return admitted

    def release(self, slot: Slot) -> None:
        """Take back the rows of a slot that ended."""
        self.running.remove(slot)
        if len(slot.rows) == 2:
            self._give_pair(slot.rows[0])
        elif (slot.rows[0] ^ 1) in self._singles:
            self._singles.remove(slot.rows[0] ^ 1)
            self._give_pair(slot.rows[0] & ~1)
        else:
            self._singles.append(slot.rows[0])

    def drop(self, state: JobState) -> None:
        """Forget a job: its waiting images, and the slots of its running ones."""
        if state in self.waiting:
            self.waiting.remove(state)
            self._count(state, state.admitted - state.job.images)
        for slot in list(self.slots_of(state)):
            self.release(slot)

    def slots_of(self, state: JobState) -> Iterator[Slot]:
        """The running slots of a job."""
        return (slot for slot in self.running if slot.state is state)

    def _count(self, state: JobState, images: int) -> None:
        """Add to (or, negative, subtract from) what waits."""
        self.waiting_images += images
        self._waiting_rows += images * state.rows_per_image

    def _take(self, count: int) -> tuple[int, ...] | None:
        if count == 1 and self._singles:
            return (self._singles.pop(),)
        if not self._pairs:
            return None
        first = self._pairs.pop()
        if count == 1:
            self._singles.append(first + 1)
            return (first,)
        return (first, first + 1)

    def _give_pair(self, first: int) -> None:
        """The lowest pairs are taken first: rows in use stay together, and one attention call covers them."""
        self._pairs.append(first)
        self._pairs.sort(reverse=True)
