"""Advantages of samples relative to their group (paper, section 3.3), as pure functions."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Normalise = Literal["std", "none", "batch"]
_EPSILON = 1e-4  # added to standard deviations, as in the released code


@dataclass(frozen=True)
class Advantages:
    """Advantages of N samples in G groups.

    values: float32 [N]; 0 for samples that are not scored.
    scored: bool [N], false for samples whose judgement failed, or that are alone in their group with one.
    live: bool [G], whether a group has samples with different rewards: only those have advantages other than 0.
    """

    values: Tensor
    scored: Tensor
    live: Tensor


def group_advantages(rewards: Tensor, groups: Tensor, *, normalise: Normalise) -> Advantages:
    """A_i = R_i − mean(R of the group), divided by a standard deviation unless `normalise` is "none".

    A failed judgement neither has an advantage nor enters the mean. Standard deviations are unbiased, plus 1e-4.

    Args:
        rewards: float32 [N]; NaN where the judgement failed.
        groups: int64 [N], the group of each sample, from 0 to G − 1.
        normalise: "std" divides by the group's standard deviation (paper), "batch" by that of all centred rewards,
            "none" does not divide (Dr. GRPO, arXiv 2503.20783).
    """
    count = int(groups.max()) + 1
    judged = ~rewards.isnan()
    scored = judged & (_sum_by(judged.float(), groups, count) >= 2)[groups]
    known = torch.where(scored, rewards, 0.0).double()  # so that the mean of equal rewards is exactly that reward
    sizes = _sum_by(scored.double(), groups, count).clamp(min=1)
    means = _sum_by(known, groups, count) / sizes
    centred = torch.where(scored, known - means[groups], 0.0)
    live = _spread(rewards, scored, groups, count) > 0
    if normalise == "std":
        spreads = (_sum_by(centred**2, groups, count) / (sizes - 1).clamp(min=1)).sqrt()
        centred = centred / (spreads[groups] + _EPSILON)
    elif normalise == "batch":
        # each group's mean was estimated, which costs one degree of freedom a group
        freedom = float(scored.sum()) - float((_sum_by(scored.double(), groups, count) > 0).sum())
        centred = centred / ((centred**2).sum() / max(1.0, freedom)).sqrt().add(_EPSILON)
    return Advantages(centred.float(), scored, live)


def _sum_by(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Sums of values [N] by group: [G]."""
    return values.new_zeros(count).index_add_(0, groups, values)


def _spread(rewards: Tensor, scored: Tensor, groups: Tensor, count: int) -> Tensor:
    """Largest minus smallest scored reward of each group: [G]; 0 for a group without any."""
    low = torch.full((count,), torch.inf).scatter_reduce(0, groups, torch.where(scored, rewards, torch.inf), "amin")
    high = torch.full((count,), -torch.inf).scatter_reduce(0, groups, torch.where(scored, rewards, -torch.inf), "amax")
    return (high - low).nan_to_num(neginf=0.0)
