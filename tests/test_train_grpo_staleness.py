"""With staleness 1, samples come from the weights before the latest update, and are trained on as such."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from model.checkpoints.load import load
from model.generate import generate
from pairs.judges.judge import Judgement
from tests.grpo_runs import Brightness, recipe, rows, trainer
from tests.stopping import Killed
from train.grpo.metrics import Means
from train.grpo.recipe import GRPORecipe, load_recipe
from train.grpo.rollout.plan import plan_pair
from train.grpo.rollout.samples import Samples, load_samples
from train.grpo.step_samples import advantages_of
from train.grpo.trainer import Trainer
from train.recipe import RecipeError

ROLLOUT = {"pairs": 2, "samples": 2, "guidance_scale": 2.0, "staleness": 1}
FAST = {"learning_rate": [{"at": 0, "value": 3e-3}], "micro_batch": 4}  # so that an update is seen in the codes


def stale(steps: int = 3, **parts: object) -> GRPORecipe:
    base: dict[str, object] = {"rollout": ROLLOUT, "update": FAST, "ground_truth": {"use": "none"}}
    return recipe(steps, **base | {"output": {"save_every": 1, "keep": 4, "grid_every": 0}} | parts)


def stored(made: Trainer, chosen: GRPORecipe, step: int) -> Samples:
    plans = tuple(plan_pair(chosen, made._source, step, place, 0) for place in range(chosen.rollout.pairs))
    return load_samples(made._folder.samples(step), plans)


def drawn_by(folder: Path, samples: Samples, chosen: GRPORecipe) -> Tensor:
    """Codes that a checkpoint draws for the prompts and seeds of samples."""
    params = chosen.rollout.params
    return generate(
        load(folder, device="cpu"),
        samples.prompts(),
        seeds=samples.places.seed.tolist(),
        guidance_scale=params.guidance_scale,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
    )


def test_samples_are_drawn_by_the_weights_before_the_latest_update(small_folder: Path, tmp_path: Path) -> None:
    """The second step by the first weights, the third by those after one update; rewards belong to their pictures."""
    chosen = stale()
    made = trainer(small_folder, tmp_path, chosen)
    made.run()
    after = [small_folder, *(made._folder.checkpoint(step) for step in (1, 2))]
    for step in (1, 2):
        samples = stored(made, chosen, step)
        assert torch.equal(samples.codes, drawn_by(after[step - 1], samples, chosen))
        assert not torch.equal(samples.codes, drawn_by(after[step], samples, chosen))
        pictures = [Image.fromarray(pixels.numpy()) for pixels in made._engine.image_tokenizer.images(samples.codes)]
        judgements = Brightness()(pictures, samples.prompts())
        assert samples.rewards.tolist() == pytest.approx([one.score for one in judgements if one])
    assert rows(tmp_path)[1]["largest rollout gap"] > 1e-2


def test_the_first_update_on_stale_samples_is_that_of_a_second_update_on_fresh_ones(
    small_folder: Path, tmp_path: Path
) -> None:
    """Same samples, same weights after one change: the same ratios, clips and gradient, by two ways."""

    def gradient(staleness: int) -> tuple[dict[str, Tensor], Means, Samples]:
        chosen = stale(rollout=ROLLOUT | {"staleness": staleness}, loss={"clip_low": 0.05, "clip_high": 0.1})
        made = trainer(small_folder, tmp_path / str(staleness), chosen)
        samples = made._samples.of(0)
        made._samples.close()
        advantages, old = advantages_of(samples, chosen), made._objective.old_policy(samples)
        if not staleness:
            made._objective.backward(samples, advantages, old, Means())
        with torch.no_grad():
            for number, parameter in enumerate(made._weights.parameters.values()):
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
                parameter.grad = None
        means = Means()
        made._objective.backward(samples, advantages, old, means)
        found = {name: p.grad for name, p in made._weights.parameters.items() if p.grad is not None}
        return found, means, samples

    fresh, fresh_means, fresh_samples = gradient(0)
    found, means, samples = gradient(1)
    assert torch.equal(samples.codes, fresh_samples.codes)
    assert means.result()["clip share"] > 0
    assert means.result()["clip share"] == pytest.approx(fresh_means.result()["clip share"], abs=0.01)
    error = sum(float((found[name] - fresh[name]).square().sum()) for name in fresh) ** 0.5
    assert error < 1e-3 * sum(float(one.square().sum()) for one in fresh.values()) ** 0.5


def test_a_stale_run_that_was_killed_equals_one_that_was_not(small_folder: Path, tmp_path: Path) -> None:
    """Killed right after the checkpoint of step 2, when the samples of the next were drawn by weights that are gone."""
    chosen = stale(5, output={"save_every": 2, "keep": 3, "grid_every": 0}, ground_truth={"use": "positive"})

    def kill(step: int, row: dict[str, float]) -> None:
        if step == 2:
            raise Killed

    trainer(small_folder, tmp_path / "whole", chosen).run()
    with pytest.raises(Killed):
        trainer(small_folder, tmp_path / "killed", chosen).run(on_step=kill)
    trainer(small_folder, tmp_path / "killed", chosen).run()
    weights = [(tmp_path / run / "latest" / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_the_judge_has_time_until_after_the_next_update(small_folder: Path, tmp_path: Path) -> None:
    """The judge answers for the second step only once the first update was made, which would be never otherwise."""
    updated = threading.Event()

    class Slow(Brightness):
        calls = 0

        def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
            self.calls += 1
            if self.calls > 1:
                assert updated.wait(timeout=60)
            return super().__call__(images, prompts)

    chosen = stale(2, output={"save_every": 2, "keep": 1, "grid_every": 0})
    trainer(small_folder, tmp_path, chosen, Slow()).run(on_step=lambda step, row: updated.set())
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


@pytest.mark.parametrize("filters", ["top_k = 20", "top_p = 0.9"])
def test_filters_are_refused(tmp_path: Path, filters: str) -> None:
    toml = tmp_path / "recipe.toml"
    toml.write_text(
        f"steps = 1\n[rollout]\npairs = 1\nsamples = 2\nguidance_scale = 2.0\nstaleness = 1\n{filters}\n"
        "[update]\nlearning_rate = [{ at = 0.0, value = 1e-3 }]\n"
    )
    with pytest.raises(RecipeError, match=r"rollout: .*staleness 1 needs top_k 0 and top_p 1"):
        load_recipe(str(toml))
