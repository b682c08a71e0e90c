"""Compare two checkpoints on the same prompts and seeds: scores and diversity."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bench.pictures.codes import unpack_codes
from bench.world.pairshapes import Key, Result
from pairs.scores import Mean, mean

_NORMAL_95 = 1.96  # standard errors on either side


@dataclass(frozen=True)
class Comparison:
    """Scores and diversity at one guidance scale, over the prompts and seeds that both checkpoints have.

    before, after: mean scores, with standard errors over prompts.
    gain: mean difference, paired by prompt and seed.
    diversity_before, diversity_after: see `diversity`.
    """

    guidance_scale: float
    before: Mean
    after: Mean
    gain: Mean
    diversity_before: float
    diversity_after: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the gain."""
        reach = _NORMAL_95 * self.gain.standard_error
        return self.gain.value - reach, self.gain.value + reach

    def __str__(self) -> str:
        low, high = self.interval
        kept = self.diversity_after / self.diversity_before
        return (
            f"guidance {self.guidance_scale:<4g} {self.gain.count} prompts   {self.before} → {self.after}   "
            f"gain {self.gain.value:+.3f} (95 %: {low:+.3f} to {high:+.3f})   "
            f"diversity {self.diversity_before:.3f} → {self.diversity_after:.3f} ({kept:.2f})"
        )


def compare(before: Mapping[Key, Result], after: Mapping[Key, Result]) -> list[Comparison]:
    """Compare two checkpoints' results, by guidance scale.

    Raises:
        ValueError: they have no picture in common.
    """
    common = sorted(before.keys() & after.keys())
    if not common:
        raise ValueError("the two results files have no prompt, guidance scale and seed in common")
    found = []
    for scale in sorted({scale for _, scale, _ in common}):
        seeds = defaultdict(list)
        for prompt, at, seed in common:
            if at == scale and before[prompt, at, seed].score is not None and after[prompt, at, seed].score is not None:
                seeds[prompt].append((prompt, at, seed))
        scores = [[_mean_score(results, keys) for keys in seeds.values()] for results in (before, after)]
        found.append(
            Comparison(
                scale,
                mean(scores[0]),
                mean(scores[1]),
                mean(new - old for old, new in zip(*scores, strict=True)),
                *(
                    diversity([[results[key] for key in keys] for keys in seeds.values()])
                    for results in (before, after)
                ),
            )
        )
    return found


def _mean_score(results: Mapping[Key, Result], keys: Sequence[Key]) -> float:
    return mean(results[key].score for key in keys).value


def diversity(pictures: Sequence[Sequence[Result]]) -> float:
    """Mean share of the codes in which two pictures of one prompt differ, over all pairs of seeds and all prompts.

    Args:
        pictures: of each prompt.
    """
    shares = [
        np.mean([np.mean(a != b) for a, b in combinations([unpack_codes(one.codes) for one in own], 2)])
        for own in pictures
        if len(own) > 1
    ]
    return float(np.mean(shares)) if shares else float("nan")
