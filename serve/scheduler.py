"""Who is drawn next: first in, first out, into the rows of the cache that are free."""

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from serve.request import Request, Slot


class Scheduler:
    """The waiting requests, the running slots, and the free rows.

    Args:
        rows: of the cache; an even number.
        tokens: codes of an image, which is how many steps it keeps its rows.
    """

    def __init__(self, *, rows: int, tokens: int) -> None:
        assert rows % 2 == 0, rows
        self.waiting: deque[Request] = deque()
        self.running: list[Slot] = []
        self._tokens = tokens
        self._pairs = sorted(range(0, rows, 2), reverse=True)  # free pairs by their first row, lowest last
        self._singles: list[int] = []  # free rows whose partner is taken

    @property
    def free_rows(self) -> int:
        """Rows that nobody has."""
        return 2 * len(self._pairs) + len(self._singles)

    @property
    def waiting_images(self) -> int:
        """Images without a slot yet."""
        return sum(request.images - request.admitted for request in self.waiting)

    @property
    def steps_to_wait(self) -> int:
        """After how many steps a guided image that came now would begin: known, since no image ends early.

        Two free rows that do not lie together count as a pair, which makes it a little short at times.
        """
        ends = [(self._tokens - slot.drawn, len(slot.rows)) for slot in self.running]
        heapify(ends)
        free, now = self.free_rows, 0
        before = [request.rows_each for request in self.waiting for _ in range(request.images - request.admitted)]
        for rows in [*before, 2]:
            while free < rows:
                now, freed = heappop(ends)
                free += freed
            free -= rows
            heappush(ends, (now + self._tokens, rows))
        return now

    def submit(self, request: Request) -> None:
        """Put a request at the end of the queue."""
        self.waiting.append(request)

    def admit(self) -> list[Slot]:
        """Give slots to images in order of arrival while there are rows; nobody overtakes."""
        admitted = []
        while self.waiting and (rows := self._take(self.waiting[0].rows_each)):
            request = self.waiting[0]
            admitted.append(Slot(request, request.admitted, rows))
            request.admitted += 1
            request.status = "running"
            if request.admitted == request.images:
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

    def drop(self, request: Request) -> None:
        """Forget a request: its images that wait, and the slots of those that run."""
        if request in self.waiting:
            self.waiting.remove(request)
        for slot in list(self.slots_of(request)):
            self.release(slot)

    def slots_of(self, request: Request) -> Iterator[Slot]:
        """Its running slots."""
        return (slot for slot in self.running if slot.request is request)

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
        """Low pairs are taken first, so that rows in use stay together and are attended to in one call."""
        self._pairs.append(first)
        self._pairs.sort(reverse=True)
