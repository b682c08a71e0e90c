"""All runs of an ablation: trials of the rates first, then every arm with every seed; what is finished is not repeated."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from train.ablation.results import Result, read_curve, read_result
from train.ablation.run import PRIMARY, Run, perform, train
from train.ablation.study import Study
from train.errors import TrainingError
from train.recipe import RecipeError

logger = logging.getLogger("focusdiff")
_PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Ablation:
    """An ablation's runs from one start.

    arms, seeds: those to run, of the study's.
    out: folder of the runs, which resume there.
    results: folder of the results (`train.ablation.results`).
    """

    study: Study
    start: str
    arms: Sequence[str]
    seeds: Sequence[int]
    out: Path
    results: Path

    def perform(self, *, jobs: int) -> Iterator[tuple[Run, Result]]:
        """Do what is not finished, in `jobs` processes of one thread each; yields each run as it ends.

        A run that fails does not keep the others from being done, but runs follow only if all trials succeed.

        Raises:
            TrainingError: runs failed.
            RecipeError: a folder holds a run, or a result, of another recipe.
        """
        yield from self._perform(self.trials, jobs)
        yield from self._perform(self.runs, jobs)

    def train(self, seed: int, *, jobs: int) -> None:
        """Train every arm with a seed, unless that is done; the trials must be finished.

        Raises:
            TrainingError: runs failed.
            RecipeError: a folder holds a run of another recipe, or the trials are not finished.
        """
        runs = [Run(self.start, arm, seed, self.chosen_factor(arm), "test") for arm in self.arms]
        for _ in _in_processes(train, self.study, runs, (self.out,), jobs):
            pass

    @property
    def trials(self) -> list[Run]:
        """Trials of all arms that train, with the study's rate factors times the start's."""
        tuning = self.study.tuning
        trained = [arm for arm in self.arms if self.study.arms[arm].method != "none"]
        factors = [self.study.starts[self.start] * one for one in tuning.factors]
        return [Run(self.start, arm, tuning.seed, factor, "validation") for arm in trained for factor in factors]

    @property
    def runs(self) -> list[Run]:
        """Runs of all arms with all seeds, one seed after the other; the trials must be finished."""
        factors = {arm: self.chosen_factor(arm) for arm in self.arms}
        return [
            Run(self.start, arm, seed, factors[arm], "test")
            for seed in self.seeds
            for arm in self.arms
            if self.study.arms[arm].method != "none" or seed == self.seeds[0]
        ]

    def chosen_factor(self, arm: str) -> float:
        """Rate factor whose trial has the best s_g on the validation cases."""
        if self.study.arms[arm].method == "none":
            return 1.0
        trials = [run for run in self.trials if run.arm == arm]
        gains = {run.factor: float(read_result(self.results / run.key).s_g(PRIMARY).mean()) for run in trials}
        return max(gains, key=gains.__getitem__)

    @property
    def finished(self) -> dict[str, list[Result]]:
        """Results of the runs that are finished, by arm, in order of the seeds.

        Raises:
            RecipeError: a result is of another recipe.
        """
        found = {arm: [self.result(run) for run in self._runs(arm)] for arm in self.arms}
        return {arm: [result for result in results if result is not None] for arm, results in found.items()}

    @property
    def rewards(self) -> dict[str, NDArray[np.float64]]:
        """Mean rewards of the pictures drawn by the finished runs of every arm that draws: [seeds, steps].

        Raises:
            RecipeError: a curve cannot be read.
        """
        folders = {arm: [self.results / run.key for run in self._runs(arm)] for arm in self.arms}
        found = {
            arm: [curve for folder in own if folder.exists() and (curve := read_curve(folder, "reward"))]
            for arm, own in folders.items()
            if self.study.arms[arm].method == "grpo"
        }
        return {arm: np.array(curves) for arm, curves in found.items() if curves}

    def checkpoint(self, arm: str, seed: int) -> str | Path:
        """Weights of an arm's run: the start itself, or those that its training kept last.

        Raises:
            RecipeError: the run, or one of the arm's trials, is not there.
        """
        if self.study.arms[arm].method == "none":
            return self.start
        folder = self.out / Run(self.start, arm, seed, self.chosen_factor(arm), "test").key / "latest"
        if not folder.exists():
            raise RecipeError(f"{folder} is not there: run {arm} with seed {seed} first")
        return folder

    def result(self, run: Run) -> Result | None:
        """Result of a run; None if it is not finished.

        Raises:
            RecipeError: the result is of another recipe.
        """
        folder = self.results / run.key
        if not folder.exists():
            return None
        found, recipe = read_result(folder), self.study.recipe(run.arm, seed=run.seed, factor=run.factor)
        if recipe is not None and type(recipe).model_validate(found.recipe) != recipe:
            raise RecipeError(f"{folder} holds a result of another recipe: choose another --results")
        return found

    def _runs(self, arm: str) -> list[Run]:
        """Runs of an arm with all seeds; none if its trials are not finished."""
        try:
            factor = self.chosen_factor(arm)
        except RecipeError:
            return []
        return [Run(self.start, arm, seed, factor, "test") for seed in self.seeds]

    def _perform(self, runs: Sequence[Run], jobs: int) -> Iterator[tuple[Run, Result]]:
        missing = [run for run in runs if self.result(run) is None]
        for run in _in_processes(perform, self.study, missing, (self.out, self.results), jobs):
            yield run, read_result(self.results / run.key)


def _in_processes(
    function: Callable[..., None], study: Study, runs: Sequence[Run], folders: tuple[Path, ...], jobs: int
) -> Iterator[Run]:
    """Call a function for every run, in `jobs` processes of one thread each; yields each run as it ends.

    Raises:
        TrainingError: runs failed, of which the others are done.
    """
    with ProcessPoolExecutor(jobs, mp_context=_PROCESSES, max_tasks_per_child=1, initializer=_one_thread) as pool:
        calls = {pool.submit(function, study, run, *folders): run for run in runs}
        failed: dict[Run, BaseException] = {}
        for call in as_completed(calls):
            run, error = calls[call], call.exception()
            if error is None:
                yield run
            else:  # said now, because the others may take hours
                failed[run] = error
                logger.error("%s failed: %s", run.key, error)
    for run, error in failed.items():
        raise TrainingError(f"{len(failed)} runs failed, first {run.key}: {error}") from error


def _one_thread() -> None:
    torch.set_num_threads(1)
