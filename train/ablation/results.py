"""Results of runs on disk: small files that are kept, while checkpoints are not.

<start>/<arm>/<run>/run.json    recipe, cost, measures
                    scores.csv  every case: the scores of its four pictures, and whether the pair was noticed
                    curve.csv   values by step
"""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairs.miniature import CaseSet
from train.recipe import RecipeError

_CURVE = (
    "step", "reward", "s_a", "s_g", "loss", "kl", "entropy", "live groups", "live samples", "gradient norm",
    "core seconds",
)  # fmt: skip
_OWN = ("first_0", "first_1", "second_0", "second_1")  # prompt and picture


@dataclass(frozen=True)
class Cost:
    """Cost of a run.

    core_minutes: processor time of all training steps; loading and evaluation are not included.
    updates: updates of the weights.
    pictures: ground-truth pictures trained on.
    rollouts: pictures drawn.
    judge_calls: pictures judged.
    """

    core_minutes: float
    updates: int = 0
    pictures: int = 0
    rollouts: int = 0
    judge_calls: int = 0


@dataclass(frozen=True)
class Result:
    """Measures of a finished run, and what identifies it.

    diversity: by sampling settings, see `CaseScores.diversity`.
    given_prompt, unconditional: negative log-likelihood of fresh pictures, in nats per code.
    drift: KL(trained ‖ start) of the primary settings, in nats per code.
    scores: by sampling settings: scores of the pictures [C, 2, 2], and whether the pair was noticed [C].
    """

    start: str
    arm: str
    seed: int
    factor: float
    case_set: CaseSet
    recipe: Mapping[str, Any]
    cost: Cost
    diversity: Mapping[str, float]
    given_prompt: float
    unconditional: float
    drift: float
    provenance: Mapping[str, str | int]
    scores: Mapping[str, tuple[NDArray[np.float64], NDArray[np.bool_]]] = field(repr=False)

    def s_g(self, settings: str) -> NDArray[np.float64]:
        """Geometric mean of each case's scores: [C]."""
        return np.asarray(self.scores[settings][0].prod((1, 2)) ** 0.25)

    def s_a(self, settings: str) -> NDArray[np.float64]:
        """Arithmetic mean of each case's scores: [C]."""
        return np.asarray(self.scores[settings][0].mean((1, 2)))


def write_result(result: Result, rows: Sequence[Mapping[str, str]], folder: Path) -> None:
    """Write a result and the values by step, whole or not at all."""
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    plain = {name: value for name, value in result.__dict__.items() if name != "scores"} | {"cost": asdict(result.cost)}
    (partial / "run.json").write_text(json.dumps(plain, indent=1) + "\n")
    with open(partial / "scores.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["settings", "case", *_OWN, "noticed"])
        for name, (own, noticed) in result.scores.items():
            for number, (case, seen) in enumerate(zip(own.reshape(len(own), -1), noticed, strict=True)):
                writer.writerow([name, number, *(f"{score:.4g}" for score in case), int(seen)])
    if rows:
        with open(partial / "curve.csv", "w", newline="") as file:
            names = [name for name in _CURVE if name in rows[0]]
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([f"{float(row[name]):.5g}" if row[name] else "" for name in names] for row in rows)
    partial.replace(folder)


def read_result(folder: Path) -> Result:
    """Read a result.

    Raises:
        RecipeError: the folder has no result, or one that cannot be read.
    """
    try:
        plain = json.loads((folder / "run.json").read_text())
        own: dict[str, list[list[float]]] = {}
        noticed: dict[str, list[bool]] = {}
        with open(folder / "scores.csv", newline="") as file:
            for row in csv.DictReader(file):
                own.setdefault(row["settings"], []).append([float(row[name]) for name in _OWN])
                noticed.setdefault(row["settings"], []).append(row["noticed"] == "1")
        scores = {name: (np.array(own[name]).reshape(-1, 2, 2), np.array(noticed[name])) for name in own}
        return Result(**plain | {"cost": Cost(**plain["cost"]), "scores": scores})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{folder} holds no readable result: {error}") from None


def read_curve(folder: Path, name: str) -> list[float]:
    """Values of a result by step; empty if its curve has no such name.

    Raises:
        RecipeError: the curve cannot be read.
    """
    try:
        with open(folder / "curve.csv", newline="") as file:
            return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
    except (OSError, ValueError) as error:
        raise RecipeError(f"{folder} holds no readable curve: {error}") from None
