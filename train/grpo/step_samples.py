"""The samples of each step: from disk, drawn ahead, or drawn now."""

from collections.abc import Sequence

import torch

from train.data.pairs import PairSource
from train.grpo.objective.advantage import Advantages, group_advantages
from train.grpo.recipe import GRPORecipe
from train.grpo.rollout.plan import PairPlan, plan, plan_pair
from train.grpo.rollout.rollout import Drawn, Rollout
from train.grpo.rollout.samples import Samples, load_attempts, load_samples, save_samples
from train.ranks import Ranks
from train.run_folder import RunFolder

_MOST_ALIKE = 3
_BEST = 1.0  # reward of a picture that is all right


def advantages_of(samples: Samples, recipe: GRPORecipe) -> Advantages:
    """Advantages of the samples of a step: relative to their group, or fixed for ground truth outside of the groups."""
    groups, fixed = samples.places.groups(recipe.advantage.scope), recipe.ground_truth.advantage
    if fixed is None:
        return group_advantages(samples.rewards, groups, normalise=recipe.advantage.normalise)
    is_rollout = samples.places.is_rollout
    rollouts = torch.where(is_rollout, samples.rewards, torch.nan)
    found = group_advantages(rollouts, groups, normalise=recipe.advantage.normalise)
    return Advantages(torch.where(is_rollout, found.values, fixed), found.scored | ~is_rollout, found.live)


class StepSamples:
    """Draws, judges and stores the samples of steps, the same in all processes.

    With `staleness` 1, the pictures of the next step are drawn before those of this step are needed. Judges, which work
    beside the drawing, then have time until after the next update.

    Args:
        rollout: draws and judges with the present weights.
        source: pairs of the plans.
        recipe: decides the plans.
        folder: keeps the samples.
        ranks: the processes of the run; each draws a share.
    """

    def __init__(
        self, rollout: Rollout, source: PairSource, recipe: GRPORecipe, folder: RunFolder, ranks: Ranks
    ) -> None:
        self._rollout, self._source, self._recipe = rollout, source, recipe
        self._folder, self._ranks = folder, ranks
        self._ahead: dict[int, Drawn] = {}  # this process's share of steps that are not judged yet
        self._alike = 0  # steps in a row whose rewards were all equal

    def of(self, step: int) -> Samples:
        """Samples of a step; with `staleness` 1, the next step's are drawn now.

        Raises:
            TrainingError: they cannot be drawn, or the judge seems to be broken.
        """
        if not self._stored(step):
            self._draw(step)
        if self._recipe.rollout.staleness and step + 1 < self._recipe.steps and not self._stored(step + 1):
            self._draw(step + 1)
        return self._finished(step)

    def store_ahead(self, step: int) -> None:
        """Wait for the judgements of a step that was drawn ahead, if it was: a checkpoint needs its samples on disk."""
        if step in self._ahead:
            self._finished(step)

    def close(self) -> None:
        """Drop what is not judged yet."""
        for drawn in self._ahead.values():
            drawn.close()
        self._ahead.clear()

    def _stored(self, step: int) -> bool:
        return self._ranks.broadcast(self._folder.samples(step).exists())

    def _draw(self, step: int) -> None:
        """Draw this process's share of a step, unless it was drawn ahead."""
        if step in self._ahead:
            return
        own = self._ranks.own(plan(self._recipe, self._source, step))

        def begin() -> None:
            self._ahead[step] = self._rollout.begin(own)

        self._ranks.together(begin)

    def _finished(self, step: int) -> Samples:
        """Samples of a step that is on disk or drawn; they are then on disk."""
        file = self._folder.samples(step)
        drawn = self._ahead.pop(step, None)
        if drawn is None:
            attempts = enumerate(load_attempts(file))
            plans = tuple(plan_pair(self._recipe, self._source, step, place, attempt) for place, attempt in attempts)
            return load_samples(file, plans)
        samples = Samples.joined(self._ranks.together(drawn.samples))
        if self._recipe.advantage.dead_groups == "resample":
            samples = self._resampled(step, samples)
        self._check_rewards(step, samples)
        self._ranks.at_first(lambda: save_samples(samples, file))
        return samples

    def _resampled(self, step: int, samples: Samples) -> Samples:
        """Replace pairs whose groups are all dead by others, each up to `resamples` times."""
        for attempt in range(1, self._recipe.advantage.resamples + 1):
            groups, pairs = samples.places.groups(self._recipe.advantage.scope), samples.places.pair
            live = advantages_of(samples, self._recipe).live[groups]
            dead = [place for place in range(len(samples.plans)) if not live[pairs == place].any()]
            if not dead:
                break
            plans = [plan_pair(self._recipe, self._source, step, place, attempt) for place in dead]
            by_pair = samples.by_pair()
            for place, other in zip(dead, self._replacements(plans), strict=True):
                by_pair[place] = other
            samples = Samples.joined(by_pair)
        return samples

    def _replacements(self, plans: Sequence[PairPlan]) -> list[Samples]:
        """Draw and judge plans, each process a share of them; returns the samples of each."""
        own = self._ranks.own(plans)
        parts = self._ranks.together(lambda: self._rollout.begin(own).samples().by_pair() if own else [])
        return [pair for part in parts for pair in part]

    def _check_rewards(self, step: int, samples: Samples) -> None:
        """Stop if the judge seems to be broken.

        Raises:
            TrainingError: too many judgements failed, or all rewards were equal in the first step or in several in a row;
                in one step they may all be 0 because its prompts are hard. A good model may have rewards of 1 only in any
                steps, but not from the first on.
        """
        failed = float(samples.rewards.isnan().float().mean())
        most = self._recipe.judge.most_failures
        if failed > most:
            raise self._folder.stopped(step, f"{failed:.0%} of the judgements failed; at most {most:.0%} may")
        known = samples.rewards[~samples.rewards.isnan()]
        self._alike = self._alike + 1 if len(known) > 1 and known.min() == known.max() else 0
        if self._alike and known[0] == _BEST:
            broken = self._alike == _MOST_ALIKE == step + 1
        else:
            broken = self._alike == _MOST_ALIKE or (self._alike == 1 and step == 0)
        if broken:
            raise self._folder.stopped(
                step,
                f"all {len(known)} rewards are {float(known[0]):g}: the judge may be broken, or all pictures the same",
            )
