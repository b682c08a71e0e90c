"""Gradients of the arms on a frozen policy: which one points to where the reward rises, per unit of noise.

The true gradient is estimated on one set of pairs, in chunks, by the plainest unbiased estimator: rewards minus their
prompt's mean, not divided. On another set, every arm computes its own gradient g of each pair, from the same pictures.
Its quality is mean ⟨g, true⟩ / sqrt(mean ‖g‖²). This takes minutes where training takes hours.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from model.checkpoints.load import load
from pairs.files import write_atomically
from pairs.judges.exact.exact_judge import ExactJudge
from serve.engine.engine import Engine
from train.ablation.study import Study
from train.data.codes import CodeCache
from train.data.opening import DataSettings, open_source
from train.grpo.metrics import Means
from train.grpo.objective.objective import Objective
from train.grpo.recipe import GRPORecipe
from train.grpo.rollout.plan import PairPlan, ground_truth_of, plan_pair
from train.grpo.rollout.rollout import Rollout
from train.grpo.rollout.samples import Places, Samples
from train.grpo.step_samples import advantages_of
from train.ranks import ALONE
from train.recipe import RecipeError
from train.weights.shared import SharedWeights

_SEED = 200  # of pairs and pictures; no run of a study has it
_CHUNKS = 8
_ALIGNMENTS = "alignments.jsonl"
_TRUE = {"ground_truth": {"use": "none"}, "advantage": {"scope": "prompt", "normalise": "none"}}
_ALWAYS = [{"at": 0.0, "value": 1.0}]
_ALL = {"ground_truth": {"use": "both", "group": "grown", "probability": _ALWAYS}}  # every sample that any arm uses


@dataclass(frozen=True)
class Alignments:
    """Gradients of one arm, pair by pair.

    products: ⟨g, true⟩ with the true gradient of each chunk: [pairs, chunks].
    squares: ‖g‖²: [pairs].
    """

    products: NDArray[np.float64]
    squares: NDArray[np.float64]


class Gradients:
    """Gradients of a study's arms at its start.

    Compared are the arms of GRPO that draw as the study's recipe says; ground truth is in every group (p = 1).

    Args:
        study: the arms.
        start: checkpoint.
        folder: keeps what is computed, from which a stopped call goes on.
    """

    def __init__(self, study: Study, start: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._study, self._folder = study, folder
        self._janus = load(start, device="cpu")
        self._weights = SharedWeights(self._janus, ALONE, study.variant(_TRUE, seed=_SEED).weights)
        self._source = open_source(
            DataSettings("world"), self._janus, seed=_SEED, category_weights={study.left_out: 0.0}
        ).source
        engine = Engine(self._janus, slots=64, logprobs=True)
        self._codes = CodeCache(folder / "codes.sqlite", self._janus, engine.image_tokenizer)
        drawn = study.variant(_ALL, seed=_SEED)
        self._rollouts = {
            reward: Rollout(
                engine,
                self._source,
                self._codes,
                ExactJudge(),
                drawn.model_copy(update={"judge": drawn.judge.model_copy(update={"reward": reward})}),
            )
            for reward in ("score", "factors")
        }
        self._recipes = _compared(study)

    def compute(self, *, true_pairs: int, pairs: int) -> None:
        """Compute the alignments that are missing in the folder.

        Args:
            true_pairs: on which the true gradient is estimated.
            pairs: on which the arms are compared.
        """
        directions = torch.stack([self._true_gradient(chunk, true_pairs // _CHUNKS) for chunk in range(_CHUNKS)])
        directions = directions.double()  # products of long vectors lose digits in float32
        file = self._folder / _ALIGNMENTS
        done = len(_whole_lines(file))
        with open(file, "a") as opened:
            for number in tqdm(range(done, pairs), desc="pairs", disable=None):
                opened.write(json.dumps(self._alignments(true_pairs + number, directions)) + "\n")
                opened.flush()

    def close(self) -> None:
        """End the judges' threads, and close the cache."""
        for rollout in self._rollouts.values():
            rollout.close()
        self._codes.close()

    def _true_gradient(self, chunk: int, pairs: int) -> Tensor:
        """Mean gradient over a chunk of pairs, as one vector."""
        file = self._folder / f"true-{chunk}.safetensors"
        if not file.exists():
            recipe, total = self._study.variant(_TRUE, seed=_SEED), torch.zeros(())
            for number in tqdm(range(pairs), desc=f"true gradient, chunk {chunk + 1} of {_CHUNKS}", disable=None):
                full = self._samples("score", chunk * pairs + number)
                total = total + self._gradient(recipe, full)
            content = save({"gradient": total / pairs})
            write_atomically(file, lambda partial: partial.write_bytes(content))
        gradient: Tensor = load_file(file)["gradient"]
        return gradient

    def _alignments(self, number: int, directions: Tensor) -> dict[str, list[float]]:
        """By arm: products of a pair's gradient with all chunks' true gradients, then its square."""
        samples = cache(lambda reward: self._samples(reward, number))
        rows = {}
        for arm, recipe in self._recipes.items():
            gradient = self._gradient(recipe, samples(recipe.judge.reward))
            rows[arm] = [*(directions @ gradient.double()).tolist(), float(gradient.square().sum())]
        return rows

    def _samples(self, reward: str, number: int) -> Samples:
        plan = plan_pair(self._study.variant(_ALL, seed=_SEED), self._source, number, 0)
        return self._rollouts[reward].begin([plan]).samples()

    def _gradient(self, recipe: GRPORecipe, full: Samples) -> Tensor:
        """Gradient of an arm's loss on its part of a pair's samples, as one vector."""
        samples = part_of(full, recipe)
        parameters = self._weights.parameters.values()
        for parameter in parameters:
            parameter.grad = None
        # at the start, the reference is the policy itself, and the KL term has no gradient
        objective = Objective(self._janus, self._weights, recipe, None)
        objective.backward(samples, advantages_of(samples, recipe), objective.old_policy(samples), Means())
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def compare_gradients(study: Study, start: str, out: Path, *, pairs: int) -> dict[str, Alignments]:
    """Compare the arms on `pairs` pairs, with the true gradient of twice as many; in the folder "gradients" of `out`.

    Raises:
        RecipeError: the folder has alignments of other arms.
    """
    folder = out / "gradients" / Path(start).name
    if len(_whole_lines(folder / _ALIGNMENTS)) < pairs:
        gradients = Gradients(study, start, folder)
        try:
            gradients.compute(true_pairs=2 * pairs // _CHUNKS * _CHUNKS, pairs=pairs)
        finally:
            gradients.close()
    return read_alignments(study, folder, pairs)


def read_alignments(study: Study, folder: Path, pairs: int) -> dict[str, Alignments]:
    """Alignments of the first `pairs` pairs, by arm.

    Raises:
        RecipeError: they are of other arms than the study's.
    """
    file, arms = folder / _ALIGNMENTS, _compared(study)
    rows = [json.loads(line) for line in _whole_lines(file)[:pairs]]
    if any(row.keys() != arms.keys() for row in rows):
        raise RecipeError(f"{file} has gradients of other arms than the study: choose another --out")
    values = {arm: np.array([row[arm] for row in rows]) for arm in arms}
    return {arm: Alignments(own[:, :-1], own[:, -1]) for arm, own in values.items()}


def _compared(study: Study) -> dict[str, GRPORecipe]:
    """Recipes of the arms of GRPO that draw as the study's recipe says."""
    drawn = study.variant(_ALL, seed=_SEED).rollout
    recipes = {name: study.recipe(name, seed=_SEED, factor=1.0) for name in study.arms}
    return {
        name: recipe for name, recipe in recipes.items() if isinstance(recipe, GRPORecipe) and recipe.rollout == drawn
    }


def part_of(full: Samples, recipe: GRPORecipe) -> Samples:
    """The samples of one pair that a recipe would have, out of those of one with all ground truth in a grown group."""
    (pair,) = full.plans
    entries = ground_truth_of(recipe, len(pair.prompts))
    seeds = pair.seeds
    if recipe.ground_truth.group == "fixed":
        replaced = [sum(entry.prompt == prompt for entry in entries) for prompt in range(len(seeds))]
        seeds = tuple(own[: len(own) - count] for own, count in zip(seeds, replaced, strict=True))
    plan: PairPlan = replace(pair, seeds=seeds, ground_truth=entries)
    rows = _keys(full.plans)
    chosen = [rows.index(key) for key in _keys((plan,))]
    return Samples((plan,), full.codes[chosen], full.rollout_logprobs[chosen], full.rewards[chosen])


def _keys(plans: tuple[PairPlan, ...]) -> list[tuple[int, ...]]:
    places = Places.of(plans)
    return list(zip(places.prompt.tolist(), places.picture.tolist(), places.seed.tolist(), strict=True))


def _whole_lines(file: Path) -> list[str]:
    """Lines of a file; one that a kill cut short is removed from it."""
    text = file.read_text() if file.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_atomically(file, lambda partial: partial.write_text(whole))
    return whole.splitlines()
