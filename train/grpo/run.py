"""Start or resume a GRPO run from its command's settings."""

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.checkpoints.fingerprint import fingerprint
from model.janus import Janus
from pairs.exact_judge import ExactJudge
from pairs.files import write_atomically
from pairs.judge import Judge
from pairs.scene import CATEGORIES
from pairs.vlm_judge import VlmJudge
from pairs.world import World
from train.data.pairs import WorldPairs
from train.errors import TrainingError
from train.grpo.recipe import GRPORecipe
from train.grpo.trainer import Trainer
from train.recipe import claim_folder
from train.tiny.recipe import load_recipe as load_tiny_recipe


def train(
    janus: Janus, recipe: GRPORecipe, out: Path, *, judge: str, judge_model: str, judge_key: str, slots: int
) -> None:
    """Train a model in place on pairs of the procedural world, resuming after a kill.

    Args:
        janus: the first policy.
        recipe: decides the run.
        out: folder of the run.
        judge: "exact", or the base URL of an OpenAI-compatible endpoint.
        judge_model, judge_key: at that endpoint.
        slots: pictures drawn at once.

    Raises:
        RecipeError: `out` holds a run of another recipe.
        TrainingError: `out` holds a run of another model or judge, or training cannot go on.
    """
    claim_folder(out, recipe)
    judge_name = judge if judge == "exact" else judge_model
    _claim_manifest(out / "manifest.json", {"model": janus.name, "weights": fingerprint(janus), "judge": judge_name})
    weights = tuple(recipe.category_weights.get(category, 1.0) for category in CATEGORIES)
    source = WorldPairs(World(load_tiny_recipe("tiny").held_out), recipe.seed, janus.image_size, weights)
    scorer: Judge = ExactJudge() if judge == "exact" else VlmJudge(judge, judge_model, key=judge_key)
    trainer = Trainer(janus, source, scorer, recipe, out, slots=slots)
    with tqdm(total=recipe.steps, desc="steps", mininterval=1) as bar:

        def show(step: int, row: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(reward=f"{row['reward']:.3f}", pictures_per_s=f"{row['samples per second']:.1f}")

        trainer.run(on_step=show)


def _claim_manifest(file: Path, mine: dict[str, Any]) -> None:
    """Record from which model and with which judge a run trains, so that no other resumes it.

    Raises:
        TrainingError: the run has another model or judge.
    """
    if file.exists():
        theirs = json.loads(file.read_text())
        for name, value in mine.items():
            if theirs.get(name) != value:
                raise TrainingError(
                    f"{file}: this run has {name} {theirs.get(name)!r}, not {value!r}: choose another --out"
                )
    write_atomically(file, lambda partial: partial.write_text(json.dumps(mine, indent=1)))
