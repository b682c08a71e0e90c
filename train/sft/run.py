"""Start or resume a run of supervised fine-tuning from its command's settings."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.checkpoints.fingerprint import fingerprint
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from train.curve import Curve
from train.data.codes import CodeCache
from train.data.opening import DataSettings, open_source
from train.errors import DataError, TrainingError
from train.ranks import Ranks
from train.recipe import claim_folder, claim_manifest
from train.run_folder import RunFolder
from train.sft.batches import Batches
from train.sft.recipe import SFTRecipe
from train.sft.rows import PairRows
from train.sft.training import SFT
from train.weights.opening import open_weights


def train(janus: Janus, recipe: SFTRecipe, out: Path, *, data: DataSettings, ranks: Ranks) -> None:
    """Train a model in place on pictures and their prompts, resuming after a kill.

    Args:
        janus: the first weights.
        recipe: decides the run.
        out: folder of the run.
        data: pairs or single prompts, with pictures.
        ranks: the processes of the run.

    Raises:
        RecipeError: `out` holds a run of another recipe, model or data.
        DataError: the data cannot be used.
        TrainingError: training cannot go on.
        CheckpointError: a checkpoint cannot be written.
    """
    ranks.at_first(lambda: claim_folder(out, recipe))
    opened = open_source(data, janus, seed=recipe.seed, category_weights=recipe.category_weights)
    if opened.report is not None and ranks.first:
        print(opened.report)
    if not opened.source.has_pictures:
        raise DataError(f"{data.path} has no pictures, which supervised fine-tuning needs")
    start = {"model": janus.name, "weights": fingerprint(janus), "data": opened.key}
    ranks.at_first(lambda: claim_manifest(out / "manifest.json", start))
    weights = open_weights(janus, ranks, recipe.weights)
    folder, curve = RunFolder(out, keep=recipe.keep, ranks=ranks), Curve(out)
    with closing(CodeCache(out / "codes.sqlite", janus, ImageTokenizer(janus))) as cache:
        sft = SFT(weights, Batches(PairRows(opened.source, cache), janus, recipe, ranks), recipe, ranks)
        first = _resume(sft, folder, curve, sharded=weights.sharded)
        try:
            with tqdm(total=recipe.steps, initial=first, desc="steps", mininterval=1, disable=not ranks.first) as bar:
                for step in range(first, recipe.steps):
                    begun = time.process_time()
                    values = sft.step(step)
                    row = curve.add(step + 1, values | {"core seconds": time.process_time() - begun})
                    bar.update()
                    bar.set_postfix(loss=f"{row['loss']:.4f}")
                    if step + 1 == recipe.steps or (step + 1) % recipe.save_every == 0:
                        _save(sft, folder, curve, janus, step + 1, sharded=weights.sharded)
                        ranks.at_first(curve.write)
                        ranks.at_first(curve.draw)
        except TrainingError:
            if ranks.first:
                curve.write()  # to the stop: it may show why
            raise


def _resume(sft: SFT, folder: RunFolder, curve: Curve, *, sharded: bool) -> int:
    """Go back to the newest checkpoint, if there is one; returns the number of steps done."""
    done = folder.recover()
    if done:
        _, state = folder.load(done)
        if sharded:
            shards = sft.shards()
            folder.load_shards(done, shards)
            sft.load_shards(shards)
        else:
            sft.load_state_dict(state["sft"])
        curve.rows = state["rows"]
    return done


def _save(sft: SFT, folder: RunFolder, curve: Curve, janus: Janus, step: int, *, sharded: bool) -> None:
    """Write the checkpoint after `step` steps."""
    state: dict[str, Any] = {"rows": curve.rows}
    shards = sft.shards() if sharded else None
    if not sharded:
        state["sft"] = sft.state_dict()
    with sft.published():
        folder.save(step, janus, state, shards)
