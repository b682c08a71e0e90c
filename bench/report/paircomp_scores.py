"""PairComp's numbers: s_a and s_g by subtask (paper, section 3.2), with intervals over cases.

A subtask's score is the mean over its cases; the average is the unweighted mean of the subtasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.measurements.measurement import Number
from pairs.paircomp import Case

Measure = Literal["s_a", "s_g", "passed"]
MEASURES: tuple[Measure, ...] = ("s_a", "s_g", "passed")
PASS = 0.5  # a score above it means yes
_ROUNDS = 2000
_SEED = 20_250_605
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A mean over cases, and the ends of its 95 % interval (percentiles of a bootstrap over cases)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ({100 * self.low:.1f}–{100 * self.high:.1f})"


@dataclass(frozen=True)
class Group:
    """Measures of a subtask, or over all; `cases` of them are complete, `missing` others are left out."""

    name: str
    cases: int
    missing: int
    measures: Mapping[Measure, Estimate]


@dataclass(frozen=True)
class PairCompScores:
    """PairComp's table for one judge.

    subtasks: by category, in the file's order.
    average: the unweighted mean of the subtasks, as published.
    weighted: the mean over all cases.
    """

    subtasks: tuple[Group, ...]
    average: Group
    weighted: Group

    @property
    def groups(self) -> tuple[Group, ...]:
        """The table's rows."""
        return (*self.subtasks, self.average, self.weighted)

    @property
    def numbers(self) -> list[Number]:
        """The table in the schema that all benches share."""
        return [
            Number(f"{measure} {group.name}", one.value, "share", "higher", one.low, one.high, group.cases)
            for group in self.groups
            for measure, one in group.measures.items()
        ]


def measures_of(scores: Sequence[float]) -> dict[Measure, float]:
    """Measures of one case: s_a, s_g, and whether all its pictures pass (1) or not (0)."""
    array = np.asarray(scores, dtype=np.float64)
    return {
        "s_a": float(array.mean()),
        "s_g": float(array.prod() ** (1 / array.size)),
        "passed": float((array > PASS).all()),
    }


def paircomp_scores(cases: Sequence[Case], scores: Mapping[int, Sequence[float]]) -> PairCompScores:
    """Aggregate the scores of complete cases.

    Args:
        cases: of the benchmark.
        scores: of each complete case's pictures, by its number.

    Raises:
        ValueError: a category has no complete case.
    """
    return _aggregate(cases, {number: list(measures_of(own).values()) for number, own in scores.items()})


def paired_difference(
    cases: Sequence[Case], first: Mapping[int, Sequence[float]], second: Mapping[int, Sequence[float]]
) -> PairCompScores:
    """Aggregate the second run minus the first, case by case; cases that one of them lacks are missing.

    Args:
        cases: of the benchmark.
        first, second: scores of each run, by one judge, as in `paircomp_scores`.

    Raises:
        ValueError: a category has no case that is complete in both.
    """
    gains = {}
    for number in first.keys() & second.keys():
        before, after = (measures_of(one[number]) for one in (first, second))
        gains[number] = [after[measure] - before[measure] for measure in MEASURES]
    return _aggregate(cases, gains)


def _aggregate(cases: Sequence[Case], values_of: Mapping[int, Sequence[float]]) -> PairCompScores:
    """Aggregate values of cases, one for each measure."""
    rng = np.random.default_rng(_SEED)
    categories = list(dict.fromkeys(case.category for case in cases))
    subtasks = []
    drawn: list[NDArray[np.float64]] = []  # of each category, means of resampled cases: [rounds, measures]
    weights = []
    for category in categories:
        own = [case for case in cases if case.category == category]
        complete = [values_of[case.number] for case in own if case.number in values_of]
        if not complete:
            raise ValueError(f"no case of {category!r} has all its scores; run again to judge what is missing")
        values = np.array(complete)
        chosen = rng.integers(len(values), size=(_ROUNDS, len(values)))
        drawn.append(values[chosen].mean(1))
        weights.append(len(values))
        subtasks.append(_group(category, values.mean(0), drawn[-1], len(values), len(own) - len(values)))
    means = np.array([[group.measures[name].value for name in MEASURES] for group in subtasks])
    total, missing = sum(weights), sum(group.missing for group in subtasks)
    resampled = np.stack(drawn)  # [categories, rounds, measures]
    share = np.array(weights) / total
    return PairCompScores(
        tuple(subtasks),
        _group("Average", means.mean(0), resampled.mean(0), total, missing),
        _group("All cases", share @ means, np.tensordot(share, resampled, 1), total, missing),
    )


def _group(name: str, values: NDArray[np.float64], resampled: NDArray[np.float64], cases: int, missing: int) -> Group:
    low, high = np.percentile(resampled, _PERCENTILES, axis=0)
    measures = {
        measure: Estimate(float(values[i]), float(low[i]), float(high[i])) for i, measure in enumerate(MEASURES)
    }
    return Group(name, cases, missing, measures)
