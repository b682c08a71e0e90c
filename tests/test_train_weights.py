"""Trained weights: shared, copied, adapters, bfloat16, activation checkpointing, resuming."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoints.load import load
from model.janus import Janus
from tests.grpo_runs import recipe, rows, trainer
from tests.two_processes import chosen, first_step
from train.errors import TrainingError
from train.grpo.objective.policy import PromptTable
from train.ranks import ALONE, Ranks
from train.weights.copied import CopiedWeights
from train.weights.image_logits import ImageLogits
from train.weights.opening import open_weights
from train.weights.recipe import LoRARecipe, WeightsRecipe
from train.weights.shared import SharedWeights

LORA = {"rank": 4, "alpha": 8}
PROMPTS = ["a red star", "two blue circles", "a red star"]


@pytest.fixture
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


def logits_of(logits: torch.nn.Module, janus: Janus) -> Tensor:
    table = PromptTable.of([janus.encode(prompt) for prompt in PROMPTS], janus.ids, janus.device)
    codes = torch.randint(64, (3, 64), generator=torch.Generator().manual_seed(1))
    found: Tensor = logits(table.ids, table.mask, codes, table.conditional)
    return found


def disturb(weights: CopiedWeights) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(weights.parameters.values()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))


def test_adapters_change_nothing_at_first_and_are_merged_into_what_is_served(janus: Janus) -> None:
    first = logits_of(ImageLogits(janus.network), janus).detach()
    weights = CopiedWeights(janus, ALONE, WeightsRecipe(lora=LoRARecipe(**LORA)))
    assert torch.equal(logits_of(weights.logits, janus), first)
    assert all("lora_" in name for name in weights.parameters)
    assert sum(p.numel() for p in weights.parameters.values()) < sum(p.numel() for p in janus.network.parameters()) / 5
    disturb(weights)
    trained = logits_of(weights.logits, janus)
    assert (trained - first).abs().max() > 0.01
    for _ in range(2):  # merged anew each time, not on top of what was merged before
        weights.publish()
        torch.testing.assert_close(logits_of(ImageLogits(janus.network), janus), trained, rtol=1e-4, atol=1e-4)


def test_the_reference_of_adapters_is_the_model_without_them_until_it_is_refreshed(janus: Janus) -> None:
    """Its forward pass leaves the gradient of a policy's pass before it as it is."""
    first = logits_of(ImageLogits(janus.network), janus).detach()
    weights = CopiedWeights(janus, ALONE, WeightsRecipe(lora=LoRARecipe(**LORA)))
    reference = weights.reference()
    disturb(weights)

    def gradient(*, with_reference: bool) -> list[Tensor]:
        loss = logits_of(weights.logits, janus).log_softmax(-1)[..., 5].sum()
        if with_reference:
            assert torch.equal(logits_of(reference.logits, janus), first)  # type: ignore[arg-type]
        weights.network.zero_grad()
        torch.autograd.backward(loss)
        return [p.grad.clone() for p in weights.parameters.values() if p.grad is not None]

    for one, other in zip(gradient(with_reference=True), gradient(with_reference=False), strict=True):
        assert torch.equal(one, other)
    reference.refresh()
    assert torch.equal(logits_of(reference.logits, janus), logits_of(weights.logits, janus))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", [{"lora": LORA}, {"precision": "bfloat16"}])
def test_a_stopped_run_equals_one_that_was_not(small_folder: Path, tmp_path: Path, how: dict[str, object]) -> None:
    truth = {"use": "positive", "probability": [{"at": 0, "value": 1}]}
    settings = {"weights": how, "ground_truth": truth, "output": {"save_every": 1, "keep": 2, "grid_every": 0}}
    trainer(small_folder, tmp_path / "whole", recipe(3, **settings)).run()
    torch.manual_seed(99)  # nothing may depend on PyTorch's own generator
    trainer(small_folder, tmp_path / "stopped", recipe(2, **settings)).run()
    trainer(small_folder, tmp_path / "stopped", recipe(3, **settings)).run()
    whole, stopped = (load_file(tmp_path / run / "latest" / "model.safetensors") for run in ("whole", "stopped"))
    start = load_file(small_folder / "model.safetensors")
    for name, weight in whole.items():
        assert torch.equal(weight, stopped[name]), name
    changed = {name for name, weight in whole.items() if not torch.equal(weight, start[name])}
    assert changed
    if "lora" in how:
        assert all("_proj.weight" in name for name in changed)
    first, *_, last = rows(tmp_path / "whole")
    assert first["kl"] < 1e-3 < last["kl"]


def test_bfloat16_trains_float32_weights_and_scores_in_float32(small_folder: Path, tmp_path: Path) -> None:
    """Gradients are near those of float32; the gap between rollout and training is logged."""
    exact = first_step(trainer(small_folder, tmp_path / "exact", chosen()))
    made = trainer(
        small_folder, tmp_path / "mixed", chosen().model_copy(update={"weights": WeightsRecipe(precision="bfloat16")})
    )
    mixed = first_step(made)
    assert {p.dtype for p in made._weights.parameters.values()} == {torch.float32}
    logits = logits_of(made._weights.logits, load(small_folder, device="cpu"))
    assert (logits != logits.bfloat16()).float().mean() > 0.9  # the head is computed in float32
    names = [name for name in exact if name not in ("codes", "rewards", "kl")]
    one, other = (torch.cat([step[name].flatten() for name in names]) for step in (exact, mixed))
    assert 1e-5 < (one - other).norm() / one.norm() < 0.1
    made.run()
    for row in rows(tmp_path / "mixed"):
        assert 0 < row["rollout gap"] < 0.1


def test_activation_checkpointing_changes_no_gradient(small_folder: Path, tmp_path: Path) -> None:
    plain = first_step(trainer(small_folder, tmp_path / "plain", chosen()))
    how = WeightsRecipe(activation_checkpointing=True)
    made = trainer(small_folder, tmp_path / "checkpointed", chosen().model_copy(update={"weights": how}))
    assert made._weights.network.is_activation_checkpointing
    checkpointed = first_step(made)
    norm = torch.stack([value.norm() for name, value in plain.items() if "." in name]).norm()
    for name in plain.keys() - {"codes", "rewards", "kl"}:
        assert (plain[name] - checkpointed[name]).norm() < 1e-5 * norm, name


def test_copied_weights_share_with_the_engine_what_draws_no_pictures(janus: Janus) -> None:
    weights = CopiedWeights(janus, ALONE, WeightsRecipe(precision="bfloat16"))
    served = dict(janus.network.named_parameters())
    shared = {name for name, p in weights.network.named_parameters() if p.data_ptr() == served[name].data_ptr()}
    assert shared == served.keys() - weights.parameters.keys()
    assert "lm_head.weight" in shared


def test_weights_are_shared_with_the_engine_only_if_they_can_be_trained_as_they_are(small_folder: Path) -> None:
    janus = load(small_folder, device="cpu")
    assert isinstance(open_weights(janus, ALONE, WeightsRecipe()), SharedWeights)
    assert isinstance(open_weights(janus, ALONE, WeightsRecipe(precision="bfloat16")), CopiedWeights)
    half = open_weights(load(small_folder, device="cpu", dtype="bfloat16"), ALONE, WeightsRecipe())
    assert isinstance(half, CopiedWeights)
    assert {p.dtype for p in half.parameters.values()} == {torch.float32}
    with pytest.raises(TrainingError, match=r"weights\.lora"):
        open_weights(janus, Ranks("fsdp", 0, 2), WeightsRecipe(lora=LoRARecipe()))
