"""Who is drawn next: first in, first out, into the rows of the cache that are free."""

from collections import deque
from collections.abc import Iterator
from itertools import chain

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
        self.waiting_images = 0  # without a slot yet
        self._waiting_rows = 0  # that they need
        self._rows = rows
        self._tokens = tokens
        self._pairs = sorted(range(0, rows, 2), reverse=True)  # free pairs by their first row, lowest last
        self._singles: list[int] = []  # free rows whose partner is taken

    @property
    def free_rows(self) -> int:
        """Rows that nobody has."""
        return 2 * len(self._pairs) + len(self._singles)

    @property
    def steps_to_wait(self) -> int:
        """After how many steps a guided image that came now would begin: known, since no image ends early.

        Exact where all images are guided. Two free rows that do not lie together count as a pair, which makes it
        a little short at times.
        """
        # a row that ends is taken at once, and ends again after as many steps as an image has codes
        rounds, more = divmod(self._waiting_rows + 1, self._rows)
        missing = more + 1
        first_ended = ((self._tokens - slot.drawn, len(slot.rows)) for slot in self.running)  # in order: began so
        for steps, rows in chain([(0, self.free_rows)], first_ended):
            missing -= rows
            if missing <= 0:
                return rounds * self._tokens + steps
        raise AssertionError("rows are neither free nor taken")

    def submit(self, request: Request) -> None:
        """Put a request at the end of the queue."""
        self.waiting.append(request)
        self._count(request, request.images)

    def admit(self) -> list[Slot]:
        """Give slots to images in order of arrival while there are rows; nobody overtakes."""
        admitted = []
        while self.waiting and (rows := self._take(self.waiting[0].rows_each)):
            request = self.waiting[0]
            admitted.append(Slot(request, request.admitted, rows))
            request.admitted += 1
            request.status = "running"
            self._count(request, -1)
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
            self._count(request, request.admitted - request.images)
        for slot in list(self.slots_of(request)):
            self.release(slot)

    def slots_of(self, request: Request) -> Iterator[Slot]:
        """Its running slots."""
        return (slot for slot in self.running if slot.request is request)

    def _count(self, request: Request, images: int) -> None:
        """So many more images of it wait."""
        self.waiting_images += images
        self._waiting_rows += images * request.rows_each

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
