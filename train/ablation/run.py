"""One run of an arm: train, draw and judge the fixed cases, write the results."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoints.load import load
from model.janus import Janus
from model.params import SamplingParams
from pairs.judges.settings import JudgeSettings
from pairs.miniature import CaseSet, miniature_cases
from serve.engine.engine import Engine
from train.ablation.likelihood import drift, surprise
from train.ablation.results import Cost, Result, write_result
from train.ablation.scores import score_cases
from train.ablation.study import Study
from train.data.opening import DataSettings, open_source
from train.grpo.recipe import GRPORecipe
from train.grpo.rollout.plan import plan
from train.grpo.run import train as train_grpo
from train.provenance import provenance
from train.ranks import ALONE
from train.recipe import Part
from train.sft.recipe import SFTRecipe
from train.sft.run import train as train_sft

PRIMARY = "guidance 2"
SETTINGS = {f"guidance {scale}": SamplingParams(float(scale), 1.0, 0, 1.0) for scale in (1, 2, 3)}
_SLOTS = 64


@dataclass(frozen=True)
class Run:
    """One run: an arm's trial of a rate factor on the validation cases, or one of its seeds on the test cases."""

    start: str
    arm: str
    seed: int
    factor: float
    case_set: CaseSet

    @property
    def key(self) -> Path:
        """Place of its folder among the runs', and of its results among theirs."""
        own = f"seed-{self.seed}" if self.case_set == "test" else f"rate-{self.factor:g}"
        return Path(Path(self.start).name) / self.arm / own


def train(study: Study, run: Run, out: Path) -> None:
    """Train, unless that is done.

    Args:
        study: has the recipes.
        run: what to train; an arm that does not train is left alone.
        out: folder of all runs; the run's own gets the weights, in "latest".

    Raises:
        TrainingError: training cannot go on.
        RecipeError: the folder holds a run of another recipe.
    """
    recipe = study.recipe(run.arm, seed=run.seed, factor=run.factor)
    if recipe is not None:
        folder = out / run.key
        with _alone(folder):
            _train(load(run.start, device="cpu"), recipe, folder)


def perform(study: Study, run: Run, out: Path, results: Path) -> None:
    """Train, unless that is done, then measure and write the results.

    Args:
        study: has the recipes.
        run: what to do.
        out: folder of all runs.
        results: folder of all results.

    Raises:
        TrainingError: training cannot go on.
        RecipeError: the folder holds a run of another recipe.
    """
    recipe = study.recipe(run.arm, seed=run.seed, factor=run.factor)
    folder = out / run.key
    with _alone(folder):
        start = load(run.start, device="cpu")
        rows: list[dict[str, str]] = []
        if recipe is None:
            trained = start
        else:
            _train(load(run.start, device="cpu"), recipe, folder)
            trained = load(folder / "latest", device="cpu")
            with open(folder / "curve.csv", newline="") as file:
                rows = list(csv.DictReader(file))
        cost = _cost(recipe, start, rows)
        result = _measure(run, recipe, trained, start, cost)
        write_result(result, rows, results / run.key)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Context that one process at a time is in, for a folder, which is made."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _train(janus: Janus, recipe: Part, folder: Path) -> None:
    world = DataSettings("world")
    if isinstance(recipe, SFTRecipe):
        train_sft(janus, recipe, folder, data=world, ranks=ALONE)
        return
    assert isinstance(recipe, GRPORecipe)
    train_grpo(janus, recipe, folder, data=world, judge=JudgeSettings(), slots=_SLOTS, ranks=ALONE)


def _cost(recipe: Part | None, janus: Janus, rows: list[dict[str, str]]) -> Cost:
    core_minutes = sum(float(row["core seconds"]) for row in rows) / 60
    if isinstance(recipe, SFTRecipe):
        return Cost(core_minutes, updates=recipe.steps, pictures=recipe.steps * recipe.batch_size)
    if not isinstance(recipe, GRPORecipe):
        return Cost(0.0)
    weights = recipe.category_weights
    source = open_source(DataSettings("world"), janus, seed=recipe.seed, category_weights=weights).source
    pairs = [pair for step in range(recipe.steps) for pair in plan(recipe, source, step)]
    pictures = sum(len(pair.ground_truth) for pair in pairs)
    rollouts = sum(pair.samples for pair in pairs) - pictures
    return Cost(core_minutes, recipe.steps * recipe.update.updates_per_rollout, pictures, rollouts, rollouts + pictures)


def _measure(run: Run, recipe: Part | None, trained: Janus, start: Janus, cost: Cost) -> Result:
    cases, engine = miniature_cases(run.case_set), Engine(trained, slots=_SLOTS)
    settings = SETTINGS | {"served": start.sampling} if run.case_set == "test" else {PRIMARY: SETTINGS[PRIMARY]}
    scores = {name: score_cases(engine, cases, params) for name, params in settings.items()}
    given_prompt, unconditional = surprise(trained, cases)
    first = torch.from_numpy(scores[PRIMARY].codes[:, :, 0])
    return Result(
        run.start,
        run.arm,
        run.seed,
        run.factor,
        run.case_set,
        {} if recipe is None else recipe.model_dump(mode="json"),
        cost,
        {name: one.diversity for name, one in scores.items()},
        given_prompt,
        unconditional,
        drift(trained, start, cases, first, SETTINGS[PRIMARY]),
        # results are published, and the command names the user's folders
        {name: value for name, value in provenance(device="cpu", dtype=trained.dtype).items() if name != "command"},
        {name: (one.own, one.noticed) for name, one in scores.items()},
    )
