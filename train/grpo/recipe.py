"""Recipes of GRPO: one TOML file each. Vanilla GRPO, Pair-GRPO and every arm between them is a recipe."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from model.params import SamplingParams
from pairs.scene import Category
from train.errors import TrainingError
from train.recipe import RECIPES, Part, override, read_recipe
from train.schedule import Point
from train.weights.recipe import WeightsRecipe


def _in_order(points: tuple[Point, ...]) -> tuple[Point, ...]:
    if not points or any(before.at >= after.at for before, after in pairwise(points)):
        raise ValueError("must have at least one point, in increasing order of `at`")
    if not all(0 <= point.at <= 1 and point.value >= 0 for point in points):
        raise ValueError("every point needs `at` from 0 to 1, and a value of at least 0")
    return points


Schedule = Annotated[tuple[Point, ...], AfterValidator(_in_order)]


class RolloutRecipe(Part):
    """The pictures sampled in a step.

    pairs: pairs of prompts in a step.
    samples: pictures of each prompt (G in the paper).
    guidance_scale, temperature, top_k, top_p: sampling settings; the policy trained is the distribution they make.
    staleness: 0 draws with the weights of the step. 1 draws with those before the latest update, so that a slow judge
        has time until after the next one; the ratio's denominator is then the rollout's own probability.
    """

    pairs: int = Field(gt=0)
    samples: int = Field(gt=0)
    guidance_scale: float
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    staleness: Literal[0, 1] = 0

    @model_validator(mode="after")
    def _sampled(self) -> Self:
        if self.params.temperature == 0:
            raise ValueError("temperature must be above 0: greedy pictures of a prompt are all the same")
        if self.staleness and (self.top_k or self.top_p < 1):
            raise ValueError("staleness 1 needs top_k 0 and top_p 1: which codes the older weights kept is not stored")
        return self

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(self.guidance_scale, self.temperature, self.top_k, self.top_p)


class GroundTruthRecipe(Part):
    """Ground-truth pictures in the groups (paper, section 3.3).

    use: "positive" adds each prompt's own picture; "both" adds the other prompt's picture as well.
    group: "fixed" keeps the size of groups, a ground-truth picture taking the place of a rollout (released code);
        "grown" adds to it (paper).
    probability: p, the share of pairs that get ground truth, by share of the run.
    kl: whether the KL term counts on ground truth.
    advantage: None compares ground truth with its group. A number is its advantage instead, and groups are rollouts
        alone: 1 is supervised fine-tuning on the same pictures, under the guided distribution.
    """

    use: Literal["none", "positive", "both"] = "none"
    group: Literal["fixed", "grown"] = "grown"
    probability: Schedule = (Point(0.0, 1.0), Point(1.0, 0.0))
    kl: bool = False
    advantage: float | None = None

    @model_validator(mode="after")
    def _fixed_for_positives(self) -> Self:
        if self.advantage is not None and self.use == "both":
            raise ValueError('a fixed advantage needs use = "positive": pictures of the other prompt would be learned')
        return self


class AdvantageRecipe(Part):
    """Advantages (`train.grpo.objective.advantage`).

    scope: the group that a reward is compared with: all samples of the pair, or of the prompt.
    normalise: by which standard deviation advantages are divided.
    dead_groups: what a group does whose rewards are all equal. "drop" leaves it out; "keep" trains on its KL term;
        "resample" draws another pair in its place, up to `resamples` times, then drops.
    """

    scope: Literal["pair", "prompt"] = "prompt"
    normalise: Literal["std", "none", "batch"] = "std"
    dead_groups: Literal["drop", "keep", "resample"] = "drop"
    resamples: int = Field(default=1, gt=0)


class CreditRecipe(Part):
    """Distribution of an image's advantage over its tokens (`train.grpo.objective.credit`).

    shuffled: permute the tokens' weights at random, as a control.
    """

    method: Literal["uniform", "attention", "guidance", "pair"] = "uniform"
    shuffled: bool = False


class LossRecipe(Part):
    """The objective (`train.grpo.objective.loss`, `train.grpo.objective.policy`).

    logp: which distribution is scored.
    clip_low, clip_high: how far the ratio is followed below and above 1.
    kl: the estimator of the distance to the reference.
    beta: weight of the KL term; with 0 there is no reference.
    rollout_weight_limit: largest weight for the difference between rollout and training.
    """

    logp: Literal["sampled", "as_published"] = "sampled"
    clip_low: float = Field(default=0.2, gt=0, le=1)
    clip_high: float = Field(default=0.2, gt=0)
    kl: Literal["k3", "codebook"] = "k3"
    beta: float = Field(default=0.0, ge=0)
    rollout_weight_limit: float = Field(default=2.0, ge=1)


class UpdateRecipe(Part):
    """The optimizer, AdamW.

    learning_rate: by share of the run.
    updates_per_rollout: updates on the same samples; only from the second one on does the clip act.
    micro_batch: samples per forward pass.
    clip_norm: of the gradient.
    """

    learning_rate: Schedule
    updates_per_rollout: int = Field(default=1, gt=0)
    micro_batch: int = Field(default=16, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)


class RemedyRecipe(Part):
    """Remedies for a falling reward (paper, appendix).

    The mean reward of the last `window` steps is compared with the best mean of as many steps before. A fall by
    more than `sharp` multiplies the learning rate by `rate_factor`; one by more than `slow` makes the present weights
    the reference. After either, `window` steps pass before the next. 0 switches one off.
    """

    window: int = Field(default=20, gt=1)
    sharp: float = Field(default=0.0, ge=0)
    rate_factor: float = Field(default=0.5, gt=0, lt=1)
    slow: float = Field(default=0.0, ge=0)


class JudgeRecipe(Part):
    """The reward, and the limit of failed judgements.

    reward: the judge's score, or the mean of its factors.
    most_failures: largest share of a step's judgements that may fail.
    """

    reward: Literal["score", "factors"] = "score"
    most_failures: float = Field(default=0.25, ge=0, lt=1)


class OutputRecipe(Part):
    """Checkpoints and contact sheets of a run.

    save_every: steps between checkpoints.
    keep: checkpoints kept, the newest ones.
    grid_every: steps between contact sheets, which are also drawn at the start and the end; 0 draws none.
    """

    save_every: int = Field(default=10, gt=0)
    keep: int = Field(default=3, gt=0)
    grid_every: int = Field(default=10, ge=0)


class GRPORecipe(Part):
    """Everything that decides a run of GRPO, besides the first checkpoint, the pairs and the judge.

    category_weights: of the procedural world; a missing category has weight 1.
    """

    seed: int = 0
    steps: int = Field(gt=0)
    category_weights: dict[Category, float] = Field(default_factory=dict)
    rollout: RolloutRecipe
    ground_truth: GroundTruthRecipe = GroundTruthRecipe()
    advantage: AdvantageRecipe = AdvantageRecipe()
    credit: CreditRecipe = CreditRecipe()
    loss: LossRecipe = LossRecipe()
    weights: WeightsRecipe = WeightsRecipe()
    update: UpdateRecipe
    remedies: RemedyRecipe = RemedyRecipe()
    judge: JudgeRecipe = JudgeRecipe()
    output: OutputRecipe = OutputRecipe()

    def check_processes(self, count: int) -> None:
        """Raise TrainingError if a step has too few pairs for so many processes."""
        if self.rollout.pairs < count:
            raise TrainingError(f"rollout.pairs is {self.rollout.pairs}: too few for {count} processes")


def load_recipe(name: str, *, seed: int | None = None, steps: int | None = None) -> GRPORecipe:
    """Load a recipe by its name, or by the path of a .toml file; `seed` and `steps` replace its own.

    Raises:
        RecipeError: there is no such recipe, or a field is invalid.
    """
    return override(read_recipe(name, GRPORecipe, folder=RECIPES / "grpo"), seed=seed, steps=steps)
