"""PairComp's scores: arithmetic and geometric means of judgements (paper, section 3.2)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def arithmetic_mean(scores: Sequence[float]) -> float:
    """s_a: mean of a case's scores, each in [0, 1]."""
    return sum(scores) / len(scores)


def geometric_mean(scores: Sequence[float]) -> float:
    """s_g: n-th root of the product of a case's n scores; a single 0 makes it 0."""
    return math.prod(scores) ** (1 / len(scores))


@dataclass(frozen=True)
class Mean:
    """Mean of `count` judgements with its standard error; `missing` others failed and are left out.

    One judgement has no spread: its standard error is 0, and is not printed.
    """

    value: float
    standard_error: float
    count: int
    missing: int = 0

    def __str__(self) -> str:
        return f"{self.value:.3f}" if self.count == 1 else f"{self.value:.3f} ± {self.standard_error:.3f}"


def mean(scores: Iterable[float | None]) -> Mean:
    """Mean and standard error of the judgements that succeeded (are not None).

    Raises:
        ValueError: none succeeded.
    """
    rows = list(scores)
    known = [score for score in rows if score is not None]
    if not known:
        raise ValueError(f"none of {len(rows)} judgements succeeded")
    average = sum(known) / len(known)
    spread = sum((score - average) ** 2 for score in known) / max(1, len(known) - 1)
    return Mean(average, math.sqrt(spread / len(known)), len(known), len(rows) - len(known))
