"""Recent step times, for estimates of queue waits."""

from collections import deque
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager

_WINDOW = 64  # latest measurements of a kind
_KEPT_SHARE = 15 / 16  # of them are averaged: all but the slowest
_APART = 0.1  # of the time that ends take: see `StepTimes.ending_apart`


class RecentSeconds:
    """The mean of the latest 64 measurements without the slowest sixteenth, at least one.

    A step in which the machine stood still must not change an estimate, but a machine that is slower from now on must.
    Up to four outliers among 64, however large, leave the mean between the smallest and the largest of the others.
    """

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_WINDOW)

    def add(self, seconds: float) -> None:
        self._latest.append(seconds)

    @property
    def mean(self) -> float:
        """Seconds; 0 before anything was measured."""
        kept = sorted(self._latest)[: max(1, int(_KEPT_SHARE * len(self._latest)))]
        return sum(kept) / len(kept) if kept else 0.0


class StepTimes:
    """Seconds that decoding takes for a code, and that each image adds where it starts (prefill) and ends (pixels).

    These are seconds of the host; a GPU computes prefill and pixels beside the steps. They are measured apart because starting and
    ending can take a hundred times as long as decoding.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._decoding = RecentSeconds()
        self._starting = RecentSeconds()
        self._ending = RecentSeconds()
        self._ending_alone, self._ending_together = RecentSeconds(), RecentSeconds()
        self._apart = 0.0  # of the present step: seconds that were not decoding
        self.latest = 0.0  # seconds of the latest step, everything included
        self.codes = 1.0  # that each running image gained in the present step, on average

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure a whole step."""
        begun, self._apart, self.codes = self._clock(), 0.0, 1.0
        yield
        self.latest = self._clock() - begun
        self._decoding.add((self.latest - self._apart) / self.codes)

    def starting(self, images: Sized) -> AbstractContextManager[None]:
        """Measure, within a step, the prefill of images. The list may be filled inside the context."""
        return self._part(images, self._starting)

    def ending(self, images: Sized) -> AbstractContextManager[None]:
        """Measure, within a step, the pixels of images."""
        return self._part(images, self._ending, self._ending_alone if len(images) == 1 else self._ending_together)

    @contextmanager
    def _part(self, images: Sized, *kinds: RecentSeconds) -> Iterator[None]:
        begun = self._clock()
        yield
        seconds = self._clock() - begun
        self._apart += seconds
        for kind in kinds if len(images) else ():
            kind.add(seconds / len(images))

    @property
    def ending_apart(self) -> float:
        """Seconds that the end of an image takes longer if no other ends in the same step.

        Before both were measured a tenth: low, so that windows are tried where it is not known what they cost.
        """
        alone, together = self._ending_alone.mean, self._ending_together.mean
        return max(0.0, alone - together) if alone and together else _APART * self._ending.mean

    @property
    def decoding(self) -> float:
        """Seconds in which each running image gains one code, while none starts or ends."""
        return self._decoding.mean

    def estimate(self, codes: int, *, images: int) -> float:
        """Seconds in which each running image gains `codes` codes, and `images` images start and as many end."""
        return codes * self._decoding.mean + images * (self._starting.mean + self._ending.mean)
