"""Measurement of the seconds that steps take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FIRST = 4  # measurements after which a size is known
_NEAR = 1.2  # sizes whose ratio is smaller take about the same
_SLOWEST = math.log(2)  # a step in which the machine stood still counts as one that took twice as long as expected
# variances, in units of that of a measurement
_PACE_DRIFT = 0.04  # of the pace, by each step
_SIZE_DRIFT = 0.01  # of a size beside the others, by each step of another size
_NOISE_WEIGHT = 0.02  # of each measurement


@dataclass
class _Size:
    """Measured cost of steps of one size.

    log: logarithm of seconds ÷ those of the pace.
    variance: of it, as far as it was known after the last of its measurements.
    count: of measurements.
    last: number of steps before the last of them.
    """

    log: float
    variance: float
    count: int
    last: int


class StepCosts:
    """Seconds of a step by the number of codes that it is fed, as measured of late.

    Sizes are compared, though most steps in a row have the same. When these become slower, on a busy machine or with every
    code more that attention reads, all sizes have most likely become so: their common pace has. Each measurement
    corrects both the pace and its size, in proportion to their variances (a Kalman filter without covariances). A size
    of which many steps were measured is certain, so that the next ones tell of the pace; one that was not measured for long is not.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._pace = 0.0  # logarithm of seconds
        self._variance = 0.0  # of the pace
        self._steps = 0
        self._noise = 0.01  # variance of a measurement's logarithm

    def add(self, fed: int, seconds: float) -> None:
        """Note what a step took, the engine's own time included."""
        if seconds <= 0:  # by a clock that stands still
            return
        measured = math.log(seconds)
        if not self._sizes:
            self._pace = measured
        self._steps += 1
        self._variance += _PACE_DRIFT
        size = self._sizes.get(fed)
        if size is None:
            self._sizes[fed] = _Size(measured - self._pace, 1 + self._variance, 1, self._steps)
            return
        own = self._variance_of(size)
        total = own + self._variance + 1
        error = min(measured - self._pace - size.log, _SLOWEST)
        self._noise += _NOISE_WEIGHT * (error**2 / total - self._noise)
        self._pace += error * self._variance / total
        self._variance -= self._variance**2 / total
        self._sizes[fed] = _Size(size.log + error * own / total, own - own**2 / total, size.count + 1, self._steps)

    def known(self, fed: int) -> bool:
        """Whether enough steps of this size were measured."""
        return fed in self._sizes and self._sizes[fed].count >= FIRST

    def is_far(self, fed: int) -> bool:
        """Whether nothing is known of steps of about this size: of those with a fifth more or less at most."""
        return not any(fed / _NEAR < one < fed * _NEAR for one in self._sizes)

    def line(self, sizes: Sequence[int]) -> list[float]:
        """Seconds of steps of ascending sizes: measured, or on the line through the two nearest that were.

        A step takes no longer than a larger one. With one measured size, others are taken to cost the same.
        """
        known = sorted(self._sizes)
        seconds = [math.exp(self._pace + self._sizes[one].log) for one in known]
        for place in range(len(known) - 1, 0, -1):
            seconds[place - 1] = min(seconds[place - 1], seconds[place])
        found = []
        for size in sizes:
            above = next((place for place, one in enumerate(known) if one >= size), len(known) - 1)
            below = max(0, above - 1)
            apart = known[above] - known[below]
            slope = (seconds[above] - seconds[below]) / apart if apart else 0.0
            found.append(seconds[above] + slope * (size - known[above]))
        return found

    def least(self, sizes: Sequence[int]) -> list[float]:
        """Seconds that steps of ascending sizes may take, if they take a standard error less than `line`."""
        never = _Size(0.0, 1.0, 0, self._steps)
        errors = [math.sqrt(self._noise * self._variance_of(self._sizes.get(size, never))) for size in sizes]
        return [seconds * math.exp(-error) for seconds, error in zip(self.line(sizes), errors, strict=True)]

    def _variance_of(self, size: _Size) -> float:
        return size.variance + _SIZE_DRIFT * max(0, self._steps - size.last - 1)
