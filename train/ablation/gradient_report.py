"""Quality of the arms' gradients relative to one arm's, with intervals, and what the runs say."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from train.ablation.gradients import Alignments
from train.ablation.statistics import Difference, percentile_interval

_RESAMPLES = 2000


def gradient_lines(alignments: Mapping[str, Alignments], base: str, gains: Mapping[str, Difference]) -> Iterator[str]:
    """A Markdown table of qualities and of what the runs gained, and the rank correlation of the two.

    Quality is mean ⟨g, true⟩ / sqrt(mean ‖g‖²), divided by that of the arm `base`.

    Args:
        alignments: by arm.
        base: arm that the others are compared with.
        gains: of s_g over `base`, of the arms that were trained.
    """
    qualities = {arm: relative_quality(own, alignments[base]) for arm, own in alignments.items()}
    yield f"| arm | quality | 95 % | gain of the runs over {base} | 95 % |"
    yield "|---|---|---|---|---|"
    for arm, (value, (low, high)) in qualities.items():
        gained = "| |"
        if arm in gains:
            least, most = gains[arm].interval
            gained = f"{gains[arm].value:+.3f} | {least:+.3f} to {most:+.3f} |"
        yield f"| {arm} | {value:.2f} | {low:.2f} to {high:.2f} | {gained}"
    trained = [arm for arm in qualities if arm in gains]
    if len(trained) > 2:
        test = spearmanr([qualities[arm][0] for arm in trained], [gains[arm].value for arm in trained])
        yield ""
        yield f"Rank correlation of quality and gain (Spearman's), {len(trained)} arms: {test.statistic:.2f}, p = {test.pvalue:.2g}"


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
