"""Quality of the arms' gradients relative to one arm's, with intervals."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from train.ablation.gradients import Alignments
from train.ablation.statistics import percentile_interval

_RESAMPLES = 2000


def gradient_lines(alignments: Mapping[str, Alignments], base: str) -> Iterator[str]:
    """A Markdown table; quality is mean ⟨g, true⟩ / sqrt(mean ‖g‖²), divided by that of the arm `base`."""
    yield "| arm | quality | 95 % |"
    yield "|---|---|---|"
    for arm, own in alignments.items():
        value, (low, high) = relative_quality(own, alignments[base])
        yield f"| {arm} | {value:.2f} | {low:.2f} to {high:.2f} |"


def relative_quality(own: Alignments, base: Alignments, *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Ratio of two arms' qualities, and its 95 % interval.

    The pairs on which the arms are compared are resampled (bootstrap), and so are the chunks behind the true gradient.
    """
    rng = np.random.default_rng(seed)
    pairs, chunks = base.products.shape

    def ratio(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
        return _quality(own, rows, columns) / _quality(base, rows, columns)

    rows, columns = (rng.integers(size, size=(_RESAMPLES, size)) for size in (pairs, chunks))
    draws = [ratio(*resampled) for resampled in zip(rows, columns, strict=True)]
    return ratio(np.arange(pairs), np.arange(chunks)), percentile_interval(np.array(draws))


def _quality(one: Alignments, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    return float(one.products[np.ix_(rows, columns)].mean() / np.sqrt(one.squares[rows].mean()))
