"""Intervals and decisions of paired comparisons, as pure functions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

_RESAMPLES = 2000
_LEVEL = 0.95
_POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """Mean difference of two arms.

    standard_error: of training seeds and cases together.
    seeds: number of paired seeds.
    """

    value: float
    standard_error: float
    seeds: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval, by Student's t with a degree of freedom less than seeds."""
        reach = float(student.ppf((1 + _LEVEL) / 2, self.seeds - 1)) * self.standard_error
        return self.value - reach, self.value + reach

    @property
    def p_value(self) -> float:
        """Two-sided."""
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * student.sf(abs(self.value) / self.standard_error, self.seeds - 1))

    @property
    def smallest_detectable(self) -> float:
        """Difference that such a comparison finds with probability 0.8, at the 5 % level."""
        freedom = self.seeds - 1
        reach = float(student.ppf((1 + _LEVEL) / 2, freedom) + student.ppf(_POWER, freedom))
        return reach * self.standard_error


def difference(after: NDArray[np.float64], before: NDArray[np.float64], *, seed: int = 0) -> Difference:
    """Mean of after − before, paired by training seed and case.

    Training seeds vary between runs; cases are a sample of all pairs of prompts, and are resampled (bootstrap), all
    seeds together. The two variances add up.

    Args:
        after, before: scores [seeds, cases], at least two seeds.
        seed: of the resampling.
    """
    differences = after - before
    seeds, cases = differences.shape
    assert seeds >= 2
    between_seeds = differences.mean(1).var(ddof=1) / seeds
    rows = np.random.default_rng(seed).integers(cases, size=(_RESAMPLES, cases))
    between_cases = differences.mean(0)[rows].mean(1).var(ddof=1)
    return Difference(float(differences.mean()), math.sqrt(between_seeds + between_cases), seeds)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted by Holm's procedure for all of a family (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def percentile_interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of a bootstrap distribution, by its percentiles."""
    low, high = np.percentile(draws, [100 * (1 - _LEVEL) / 2, 100 * (1 + _LEVEL) / 2])
    return float(low), float(high)
