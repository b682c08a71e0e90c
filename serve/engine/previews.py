"""Previews: evenly spread over a picture, and within a share of the time."""

from collections.abc import Sequence

from serve.engine.slot import Slot

_SHARE = 0.05  # of the time that others are drawn or wait


def preview_rows(count: int, grid: int) -> frozenset[int]:
    """After which of a picture's `grid` rows of codes `count` previews are made: evenly spread, never the last."""
    return frozenset(round(grid * (i + 1) / (count + 1)) for i in range(count))


class PreviewBudget:
    """Seconds that previews may take from other images: a twentieth of what steps take.

    Saved seconds are bounded by what the steps of one image yield, debts by four times that: a machine that stood
    still for a minute is not the previews' debt for the next twenty.

    Args:
        tokens: codes of an image.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._seconds = 0.0
        self._limit = 0.0
        self._each: float | None = None  # seconds of one preview, at the last step that made any

    def earn(self, step_seconds: float, usual_seconds: float) -> None:
        """Add a step's share; `usual_seconds` is what steps take lately."""
        self._limit = _SHARE * usual_seconds * self._tokens
        self._seconds = min(self._limit, self._seconds + _SHARE * step_seconds)

    def spend(self, seconds: float, previews: int, *, alone: bool) -> None:
        """Note what previews took; it costs nothing where no other job is running or waiting."""
        self._each = seconds / previews
        if not alone:
            self._seconds = max(-4 * self._limit, self._seconds - seconds)

    def choose(self, due: Sequence[Slot], *, alone: bool) -> list[Slot]:
        """The previews of this step: all if alone; else as many as there is time for, fewest so far first."""
        if alone:
            return list(due)
        return sorted(due, key=lambda slot: slot.previews)[: self._allowed]

    @property
    def _allowed(self) -> int:
        if self._seconds < 0:
            return 0
        return max(1, int(self._seconds / self._each)) if self._each else 1
