"""Keeping the host at most two steps ahead of the device, and the time that steps take there."""

from collections import deque

import torch

_AHEAD = 2  # steps: enough to keep a GPU busy, and few enough that what the host does comes soon and what it measures is true


class Pace:
    """Pace of a CPU, on which a step is over when the host has done it."""

    def begin(self) -> None:
        """Begin a step: wait until the device is near enough."""

    def end(self, fed: int | None, seconds: float) -> list[tuple[int, float]]:
        """End a step. Returns the codes fed to the steps that are over, this one or earlier ones, and their seconds.

        Args:
            fed: codes fed to the decoder, if what the step takes is wanted.
            seconds: that the host took.
        """
        return [] if fed is None else [(fed, seconds)]


class StreamPace(Pace):
    """Pace of a GPU. The host gives it a step while it computes the two before; its events tell what each took."""

    def __init__(self) -> None:
        self._open: deque[tuple[torch.cuda.Event, int | None]] = deque()
        self._before: torch.cuda.Event | None = None  # end of the step before the oldest that is open
        self._known: list[tuple[int, float]] = []

    def begin(self) -> None:
        while len(self._open) >= _AHEAD:
            self._open[0][0].synchronize()
            self._close()

    def end(self, fed: int | None, seconds: float) -> list[tuple[int, float]]:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._open.append((event, fed))
        while self._open and self._open[0][0].query():  # type: ignore[no-untyped-call]
            self._close()
        known, self._known = self._known, []
        return known

    def _close(self) -> None:
        event, fed = self._open.popleft()
        if fed is not None and self._before is not None:
            self._known.append((fed, self._before.elapsed_time(event) / 1000))
        self._before = event
