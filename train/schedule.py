"""Schedules as pure functions of the step, or of the share of a run that is done."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


def warmup_cosine(step: int, *, total: int, warmup: int, peak: float, floor: float) -> float:
    """Learning rate: linear from 0 to `peak` over `warmup` steps, then a cosine to `floor` at step `total`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Point:
    """A value of a schedule.

    at: share of the run, from 0 to 1.
    value: there.
    by: how the schedule gets there from the point before.
    """

    at: float
    value: float
    by: Literal["linear", "cosine"] = "linear"


def scheduled(points: Sequence[Point], progress: float) -> float:
    """Value of a schedule after a share of the run; constant before its first point and after its last one.

    Args:
        points: at least one, in order of `at`.
        progress: share of the run, from 0 to 1.
    """
    if progress <= points[0].at:
        return points[0].value
    for before, after in pairwise(points):
        if progress <= after.at:
            share = (progress - before.at) / (after.at - before.at)
            if after.by == "cosine":
                share = (1 - math.cos(math.pi * share)) / 2
            return before.value + share * (after.value - before.value)
    return points[-1].value
