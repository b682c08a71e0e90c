"""Short runs of GRPO on the small model."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from model.checkpoints.load import load
from pairs.judges.judge import Judge, Judgement
from pairs.world import World
from train.data.pairs import WorldPairs
from train.grpo.recipe import GRPORecipe
from train.grpo.trainer import Trainer
from train.ranks import ALONE, Ranks


class Brightness:
    """A judge that any picture satisfies a little: its score is the picture's mean red."""

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        return [Judgement(float(np.asarray(image)[..., 0].mean()) / 255) for image in images]


def recipe(steps: int = 3, **parts: object) -> GRPORecipe:
    base: dict[str, object] = {
        "steps": steps,
        "rollout": {"pairs": 2, "samples": 2, "guidance_scale": 2.0},
        "ground_truth": {"use": "both"},
        "advantage": {"scope": "pair"},
        "loss": {"beta": 0.01},
        "update": {"learning_rate": [{"at": 0, "value": 1e-3}], "micro_batch": 4},
        "output": {"save_every": 1, "keep": 2, "grid_every": 0},  # a sheet takes longer than a step
    }
    return GRPORecipe.model_validate(base | parts)


def trainer(folder: Path, out: Path, chosen: GRPORecipe, judge: Judge | None = None, ranks: Ranks = ALONE) -> Trainer:
    source = WorldPairs(World(), seed=0, size=64)
    return Trainer(load(folder, device="cpu"), source, judge or Brightness(), chosen, out, slots=4, ranks=ranks)


def rows(out: Path) -> list[dict[str, float]]:
    with open(out / "curve.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
