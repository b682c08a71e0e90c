"""The paper's two remedies when the reward falls, as a pure function of the rewards so far (appendix)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from train.grpo.recipe import RemedyRecipe

Action = Literal["lower the rate", "refresh the reference"]


@dataclass(frozen=True)
class Remedy:
    """A remedy, and the fall of the mean reward that it answers."""

    action: Action
    fall: float


def remedy(rewards: Sequence[float], recipe: RemedyRecipe) -> Remedy | None:
    """The remedy that is due now, if any.

    Args:
        rewards: mean reward of each step since the last remedy, or since the start.
        recipe: windows and thresholds.
    """
    window = recipe.window
    if len(rewards) < 2 * window:
        return None
    means = [sum(rewards[end - window : end]) / window for end in range(window, len(rewards) - window + 1)]
    fall = max(means) - sum(rewards[-window:]) / window
    if recipe.sharp and fall > recipe.sharp:
        return Remedy("lower the rate", fall)
    if recipe.slow and fall > recipe.slow:
        return Remedy("refresh the reference", fall)
    return None
