"""Start or resume a GRPO run from its command's settings."""

import json
from collections.abc import Sequence
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
from train.data.listed import open_pairs
from train.data.pairs import PairSource, WorldPairs
from train.errors import TrainingError
from train.grpo.recipe import GRPORecipe
from train.grpo.trainer import Trainer
from train.ranks import Ranks
from train.recipe import claim_folder
from train.tiny.recipe import load_recipe as load_tiny_recipe


def train(
    janus: Janus,
    recipe: GRPORecipe,
    out: Path,
    *,
    data: str,
    prompt_columns: Sequence[str],
    image_columns: Sequence[str],
    judge: str,
    judge_model: str,
    judge_key: str,
    slots: int,
    ranks: Ranks,
) -> None:
    """Train a model in place on pairs of prompts, resuming after a kill.

    Args:
        janus: the first policy.
        recipe: decides the run.
        out: folder of the run.
        data: "world", the procedural one, or a path (`train.data.listed.open_pairs`).
        prompt_columns, image_columns: of Parquet files; recognised if empty.
        judge: "exact", or the base URL of an OpenAI-compatible endpoint.
        judge_model, judge_key: at that endpoint.
        slots: pictures drawn at once, in each process.
        ranks: the processes of the run.

    Raises:
        RecipeError: `out` holds a run of another recipe.
        DataError: the data cannot be used.
        TrainingError: `out` holds a run of another model, judge or data, or training cannot go on.
    """
    ranks.at_first(lambda: claim_folder(out, recipe))
    source: PairSource
    if data == "world":
        weights = tuple(recipe.category_weights.get(category, 1.0) for category in CATEGORIES)
        source, data_key = (
            WorldPairs(World(load_tiny_recipe("tiny").held_out), recipe.seed, janus.image_size, weights),
            data,
        )
    else:
        source, report = open_pairs(Path(data), janus, prompt_columns=prompt_columns, image_columns=image_columns)
        data_key = source.fingerprint
        if ranks.first:
            print(report)
    judge_name = judge if judge == "exact" else judge_model
    start = {"model": janus.name, "weights": fingerprint(janus), "judge": judge_name, "data": data_key}
    ranks.at_first(lambda: _claim_manifest(out / "manifest.json", start))
    scorer: Judge = ExactJudge() if judge == "exact" else VlmJudge(judge, judge_model, key=judge_key)
    trainer = Trainer(janus, source, scorer, recipe, out, slots=slots, ranks=ranks)
    with tqdm(total=recipe.steps, desc="steps", mininterval=1, disable=not ranks.first) as bar:

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
