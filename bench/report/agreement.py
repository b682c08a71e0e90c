"""Agreement of two judges: rank correlation of their scores (Kendall's tau-b)."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import kendalltau

from bench.report.paircomp_scores import Estimate
from pairs.paircomp import Case

_ROUNDS = 400
_SEED = 20_250_605


def agreement(
    cases: Sequence[Case], first: Mapping[int, Sequence[float]], second: Mapping[int, Sequence[float]]
) -> dict[str, Estimate | None]:
    """Kendall's tau-b between two judges over single pictures, by category, with bootstrap intervals over cases.

    None where it is not defined: fewer than two cases have both judges' scores, or all scores of one judge are equal.

    Args:
        cases: of the benchmark.
        first, second: scores of each case's pictures, by its number.
    """
    rng = np.random.default_rng(_SEED)
    found: dict[str, Estimate | None] = {}
    for category in dict.fromkeys(case.category for case in cases):
        common = [
            case.number
            for case in cases
            if case.category == category and case.number in first and case.number in second
        ]
        found[category] = None
        if len(common) < 2:
            continue
        x, y = (np.array([scores[number] for number in common]) for scores in (first, second))
        value = kendalltau(x.ravel(), y.ravel()).statistic
        chosen = rng.integers(len(common), size=(_ROUNDS, len(common)))
        resampled = np.array([kendalltau(x[rows].ravel(), y[rows].ravel()).statistic for rows in chosen])
        if np.isfinite(value):
            low, high = np.nanpercentile(resampled, (2.5, 97.5))
            found[category] = Estimate(float(value), float(low), float(high))
    return found
