"""The samples of a step: a pure function of the recipe, the pairs and the step's number."""

from dataclasses import dataclass

import numpy as np

from model.params import MAX_SEED
from train.data.order import shuffled
from train.data.pairs import PairSource
from train.grpo.recipe import GRPORecipe
from train.schedule import scheduled


@dataclass(frozen=True)
class GroundTruth:
    """A ground-truth picture in a group, by number: the picture of prompt `picture`, scored for prompt `prompt`."""

    prompt: int
    picture: int

    @property
    def positive(self) -> bool:
        """Whether the picture is the prompt's own."""
        return self.prompt == self.picture


@dataclass(frozen=True)
class PairPlan:
    """The samples of one pair in one step.

    index: number of the pair in its source.
    attempt: 0; in a group that replaces a dead one, how many came before it.
    prompts: one or two.
    seeds: of the rollouts, for each prompt.
    ground_truth: empty unless the pair's draw of p says so.
    """

    index: int
    attempt: int
    prompts: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    ground_truth: tuple[GroundTruth, ...]

    @property
    def samples(self) -> int:
        """Rollouts and ground truth."""
        return sum(map(len, self.seeds)) + len(self.ground_truth)


def plan(recipe: GRPORecipe, source: PairSource, step: int) -> tuple[PairPlan, ...]:
    """Plan all pairs of a step."""
    return tuple(plan_pair(recipe, source, step, place) for place in range(recipe.rollout.pairs))


def plan_pair(recipe: GRPORecipe, source: PairSource, step: int, place: int, attempt: int = 0) -> PairPlan:
    """Plan the pair at a place of a step.

    Every pair of the source is used once before any is used again, in an order that changes from pass to pass.
    Replacements (`attempt` > 0) are taken from the source at random.
    """

    def random(purpose: int) -> np.random.Generator:
        return np.random.default_rng([recipe.seed, step, place, attempt, purpose])

    index = shuffled(step * recipe.rollout.pairs + place, len(source), seed=recipe.seed)
    if attempt:
        index = int(random(0).integers(len(source)))
    prompts = source.prompts(index)
    p = scheduled(recipe.ground_truth.probability, step / recipe.steps)
    chosen = source.has_pictures and bool(random(1).random() < p)
    entries = ground_truth_of(recipe, len(prompts)) if chosen else ()
    seeds = random(2).integers(MAX_SEED + 1, size=(len(prompts), recipe.rollout.samples)).tolist()
    counts = [recipe.rollout.samples] * len(prompts)
    if recipe.ground_truth.group == "fixed":
        for entry in entries:
            counts[entry.prompt] -= 1
    return PairPlan(
        index, attempt, prompts, tuple(tuple(own[:count]) for own, count in zip(seeds, counts, strict=True)), entries
    )


def ground_truth_of(recipe: GRPORecipe, prompts: int) -> tuple[GroundTruth, ...]:
    """The ground truth of a group of `prompts` prompts, if its draw of p says so (paper, section 3.3)."""
    if recipe.ground_truth.use == "none":
        return ()
    entries = [GroundTruth(prompt, picture) for prompt in range(prompts) for picture in range(prompts)]
    return tuple(entry for entry in entries if entry.positive or recipe.ground_truth.use == "both")
