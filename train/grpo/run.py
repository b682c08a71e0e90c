"""Start or resume a GRPO run from its command's settings."""

from pathlib import Path

from tqdm import tqdm

from model.checkpoints.fingerprint import fingerprint
from model.janus import Janus
from pairs.judges.exact.exact_judge import ExactJudge
from pairs.judges.judge import Judge
from pairs.judges.vlm.endpoint import VlmJudge
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
        data: pairs or single prompts.
        judge: "exact", or the base URL of an OpenAI-compatible endpoint.
        judge_model, judge_key: at that endpoint.
        slots: pictures drawn at once, in each process.
        ranks: the processes of the run.

    Raises:
        RecipeError: `out` holds a run of another recipe, model, judge or data.
        DataError: the data cannot be used.
        TrainingError: training cannot go on.
    """
    ranks.at_first(lambda: claim_folder(out, recipe))
    opened = open_source(data, janus, seed=recipe.seed, category_weights=recipe.category_weights)
    if opened.report is not None and ranks.first:
        print(opened.report)
    judge_name = judge if judge == "exact" else judge_model
    start = {"model": janus.name, "weights": fingerprint(janus), "judge": judge_name, "data": opened.key}
    ranks.at_first(lambda: claim_manifest(out / "manifest.json", start))
    scorer: Judge = ExactJudge() if judge == "exact" else VlmJudge(judge, judge_model, key=judge_key)
    trainer = Trainer(janus, opened.source, scorer, recipe, out, slots=slots, ranks=ranks)
    with tqdm(total=recipe.steps, desc="steps", mininterval=1, disable=not ranks.first) as bar:

        def show(step: int, row: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(reward=f"{row['reward']:.3f}", pictures_per_s=f"{row['samples per second']:.1f}")

        trainer.run(on_step=show)
