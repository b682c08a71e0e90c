"""Smoothing of the values of a training run, for plots."""

from collections.abc import Sequence

REACH = 10  # steps on either side


def running_mean(values: Sequence[float], *, reach: int = REACH) -> list[float]:
    """Mean of each value and up to `reach` others on either side; at the ends there are fewer."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
