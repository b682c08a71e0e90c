"""Start or resume a GRPO run from its command's settings."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from model.checkpoints.fingerprint import fingerprint
from model.janus import Janus
from pairs.judges.opening import open_judge
from pairs.judges.settings import JudgeSettings
from train.data.opening import DataSettings, open_source
from train.grpo.recipe import GRPORecipe
from train.grpo.trainer import Trainer
from train.ranks import Ranks
from train.recipe import claim_folder, claim_manifest


def train(
    janus: Janus,
    recipe: GRPORecipe,
    out: Path,
    *,
    data: DataSettings,
    judge: JudgeSettings,
    slots: int,
    ranks: Ranks,
) -> None:
    """Train a model in place on pairs of prompts, resuming after a kill.

    Args:
        janus: the first policy.
        recipe: decides the run.
        out: folder of the run.
        data: pairs or single prompts.
        judge: gives the rewards.
        slots: pictures drawn at once, in each process.
        ranks: the processes of the run.

    Raises:
        RecipeError: `out` holds a run of another recipe, model, judge or data.
        DataError: the data cannot be used.
        JudgeError: the judge cannot be opened.
        TrainingError: training cannot go on.
    """
    ranks.at_first(lambda: claim_folder(out, recipe))
    opened = open_source(data, janus, seed=recipe.seed, category_weights=recipe.category_weights)
    if opened.report is not None and ranks.first:
        print(opened.report)
    opened_judge = open_judge(judge, device=str(janus.device), cache=out / "judgements.sqlite")
    start = {"model": janus.name, "weights": fingerprint(janus), **opened_judge.identity, "data": opened.key}
    ranks.at_first(lambda: claim_manifest(out / "manifest.json", start))
    trainer = Trainer(
        replace(janus, reward_judge=opened_judge.identity),
        opened.source,
        opened_judge.judge,
        recipe,
        out,
        slots=slots,
        ranks=ranks,
        judged_at_once=opened_judge.at_once,
    )
    with tqdm(total=recipe.steps, desc="steps", mininterval=1, disable=not ranks.first) as bar:

        def show(step: int, row: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(reward=f"{row['reward']:.3f}", pictures_per_s=f"{row['samples per second']:.1f}")

        trainer.run(on_step=show)
