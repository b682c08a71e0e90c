"""Training: schedule, codebook, optimiser, batches, recipes, and runs that resume to the same weights."""

import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerFast

import train.stage
import train.tiny.image_tokenizer
from model.checkpoints.load import load
from model.generate import generate
from model.janus import Janus
from model.prompt import special_ids
from pairs.world import World
from tests.ended import Ended
from tests.forked_command import ForkedCommand
from tests.stopping import Killed, stopping_at
from train.command import main
from train.data.scenes import SceneSource
from train.muon import Muon, orthogonalise
from train.recipe import RecipeError, claim_folder
from train.schedule import warmup_cosine
from train.sft.average import Average
from train.sft.batches import Batch, Batches
from train.sft.loss import code_loss
from train.sft.recipe import SFTRecipe
from train.sft.rows import SceneRows
from train.tiny.decoder import train_decoder
from train.tiny.image_tokenizer import to_pixels, train_image_tokenizer
from train.tiny.network import build_network
from train.tiny.pipeline import train_tiny
from train.tiny.recipe import TinyRecipe, load_recipe
from train.tiny.text_tokenizer import train_text_tokenizer

SMALL = Path(__file__).parent / "small.toml"
SMALL_RECIPE = SMALL.read_text()


def test_warmup_cosine() -> None:
    rates = [warmup_cosine(s, total=110, warmup=10, peak=1.0, floor=0.1) for s in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates[60] == pytest.approx(0.55)  # half way down
    assert rates[110] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_muon_moves_parameters_like_pytorchs_own() -> None:
    """PyTorch's Muon computes in bfloat16 (8 bits), so the moves agree to about a hundredth of their length."""
    generator = torch.Generator().manual_seed(5)
    start = [torch.randn(shape, generator=generator) for shape in ((24, 24), (24, 24), (40, 24), (24, 40))]
    mine, theirs = ([nn.Parameter(x.clone()) for x in start] for _ in range(2))
    chosen = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    ours = Muon(mine, **chosen)
    reference = torch.optim.Muon(theirs, **chosen, nesterov=True, adjust_lr_fn="match_rms_adamw")  # type: ignore[arg-type]
    for _ in range(5):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        ours.step()
        reference.step()  # type: ignore[no-untyped-call]
    for a, b, x in zip(mine, theirs, start, strict=True):
        assert float((a - b).detach().norm() / (b - x).detach().norm()) < 0.03
    with pytest.raises(ValueError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(3))])


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 30, 50, generator=torch.Generator().manual_seed(6))
    for x in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(x))
        assert 0.6 < float(values.min()) < float(values.max()) < 1.3


def test_the_text_of_a_sign_is_one_token_per_character() -> None:
    """In upper and lower case; the other words of captions stay whole tokens."""
    source = SceneSource(World(), 0, 64)
    tokenizer = train_text_tokenizer((source.caption(i, 0) for i in range(2000)), 512)
    ends = tokenizer.tokenize(' a blue sign that says "'), tokenizer.tokenize('" and one green circle')
    for word in ("SUN", "sun", "7", "Zx"):
        said = f' a blue sign that says "{word}" and one green circle'
        assert tokenizer.tokenize(said) == [*ends[0], *word.lower(), *ends[1]]
        assert tokenizer.decode(tokenizer(said).input_ids) == said.lower()
    assert len(tokenizer.tokenize(": three purple circles at sunset")) == 6


def test_average_lags_a_ramp_by_an_eleventh() -> None:
    """Update n has weight 10 / (n + 9); on the ramp x = n, a′ = 10 (n − a) / n has the solution a = 10 n / 11."""
    parameter = nn.Parameter(torch.zeros(1))
    average = Average({"p": parameter})
    for value in range(1, 2001):
        parameter.data.fill_(value)
        average.update()
        if value == 1:
            assert float(average.tensors["p"]) == 1
    assert float(average.tensors["p"]) == pytest.approx(2000 * 10 / 11, rel=0.01)


def sft_recipe(**changes: object) -> SFTRecipe:
    base = {
        "steps": 10, "batch_size": 4, "learning_rate": 1e-3, "matrix_learning_rate": 1e-3, "warmup": 1,
        "weight_decay": 0.0, "drop_prompt": 0.25, "unconditional_smoothing": 0.1,
    }  # fmt: skip
    return SFTRecipe.model_validate(base | changes)


def test_batches_depend_on_the_step_alone_and_cover_an_epoch_once() -> None:
    source = SceneSource(World(), 0, 64)
    tokenizer = train_text_tokenizer((source.caption(i, 0) for i in range(200)), 400)
    codes = torch.arange(64)[:, None].expand(64, 5).to(torch.int16)
    janus = Janus(
        "small", build_network(load_recipe(str(SMALL)), tokenizer), tokenizer, special_ids(tokenizer.backend_tokenizer)
    )
    first, second = (Batches(SceneRows(source, codes), janus, sft_recipe()) for _ in range(2))
    ahead = second[17]
    assert torch.equal(first[17].ids, ahead.ids)
    rows = torch.cat([first[step].codes[:, 0] for step in range(16)])
    assert sorted(rows.tolist()) == list(range(64))
    # a share of the prompts is the unconditional row: BOS, pads, begin of image, all attended
    pad = tokenizer.pad_token_id
    dropped = sum(int((first[s].ids[i][first[s].mask[i] == 1][1:-1] == pad).all()) for s in range(16) for i in range(4))
    assert 6 <= dropped <= 28  # 64 · 0.25, three standard deviations each way


def test_unconditional_labels_are_smoothed_and_others_not() -> None:
    """Expected losses: PyTorch's cross-entropy of each row."""
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(3, 5, 7, generator=generator)
    codes = torch.randint(7, (3, 5), generator=generator)
    batch = Batch(codes, codes, codes, torch.tensor([False, True, False]))
    objective, likelihood = code_loss(logits, batch, unconditional_smoothing=0.3)
    rows = [nn.functional.cross_entropy(logits[i], codes[i], label_smoothing=0.3 if i == 1 else 0.0) for i in range(3)]
    torch.testing.assert_close(objective, torch.stack(rows).mean())
    torch.testing.assert_close(likelihood, nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten()))


@pytest.mark.parametrize(
    ("change", "field"),
    [("seed = 3", "seed"), ("images = 64", "data.images"), ('category = "counting"', "held_out")],
)
def test_a_bad_recipe_names_file_and_field(tmp_path: Path, change: str, field: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(SMALL_RECIPE.replace(change, change.split("=")[0] + '= "many"'))
    with pytest.raises(RecipeError, match=rf"bad\.toml: {field}"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="tiny"):
        load_recipe("enormous")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("select_at_step = 4", "select_at_step = 6", "vq_training: .*continuous_steps < select_at_step < steps"),
        (
            "scaffold_size = 80",
            "scaffold_size = 60",
            "scaffold_size must be at least vq.num_embeddings",
        ),
        ("base_at = 0.5", "base_at = 0.01", "base_at must leave"),
        ("\nguidance_scale = 2.0", "\nguidance_scale = 0.5", "sampling: .*guidance_scale must be from 1 to 20"),
        (
            "samples = 4, guidance_scale = 2.0",
            "samples = 4, guidance_scale = 0.5",
            "grpo.rollout: .*must be from 1 to 20",
        ),
    ],
)
def test_a_recipe_that_would_fail_late_is_refused_at_the_start(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    assert old in SMALL_RECIPE
    path.write_text(SMALL_RECIPE.replace(old, new))
    with pytest.raises(RecipeError, match=said):
        load_recipe(str(path))


def test_a_run_is_not_resumed_with_another_recipe(
    tmp_path: Path, small_recipe: TinyRecipe, command: Callable[..., Ended]
) -> None:
    claim_folder(tmp_path / "run", small_recipe)
    claim_folder(tmp_path / "run", small_recipe)
    other = tmp_path / "other.toml"
    other.write_text(SMALL_RECIPE.replace("warmup = 2", "warmup = 3"))
    ended = command(main, "tiny", "--recipe", other, "--out", tmp_path / "run")
    assert ended.code == 2
    assert "run holds a run of another recipe (sft differs)" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_resumed_sft_equals_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_recipe: TinyRecipe, small_tokenizer: PreTrainedTokenizerFast
) -> None:
    monkeypatch.setattr(train.stage, "SAVE_EVERY_SECONDS", -1.0)  # save after every step
    source = SceneSource(World(), 0, 64)
    codes = torch.randint(64, (40, 64), generator=torch.Generator().manual_seed(1)).to(torch.int16)
    chosen = sft_recipe(steps=12)

    def sft(folder: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
        network = build_network(small_recipe, small_tokenizer)
        with stopping_at(stop_at):
            train_decoder(network, small_tokenizer, SceneRows(source, codes), folder, chosen, base_at=0.5)
        return {**load_file(folder / "final.safetensors"), **load_file(folder / "base.safetensors")}

    whole = sft(tmp_path / "whole")
    for step in (3, 9):
        with pytest.raises(Killed):
            sft(tmp_path / "stopped", step)
    resumed = sft(tmp_path / "stopped")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    curves = [(tmp_path / name / "curve.csv").read_text() for name in ("whole", "stopped")]
    assert curves[0] == curves[1]


def test_resumed_image_tokenizer_training_equals_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_recipe: TinyRecipe, small_tokenizer: PreTrainedTokenizerFast
) -> None:
    monkeypatch.setattr(train.stage, "SAVE_EVERY_SECONDS", -1.0)
    source = SceneSource(World(), 0, 64)
    images = np.stack([source.image(i) for i in range(32)])
    changes = {"steps": 9, "continuous_steps": 3, "select_at_step": 5}
    chosen = small_recipe.vq_training.model_copy(update=changes)
    count = 0

    def tokenizer(folder: Path, stop_after: int | None = None) -> dict[str, torch.Tensor]:
        nonlocal count
        count = 0
        vq = build_network(small_recipe, small_tokenizer).model.vqmodel

        def pixels(*arguments: object) -> torch.Tensor:
            nonlocal count
            count += 1
            if count == stop_after:
                raise Killed
            return to_pixels(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(train.tiny.image_tokenizer, "to_pixels", pixels)
        train_image_tokenizer(vq, images, folder, chosen, seed=0)
        return dict(vq.state_dict())

    whole = tokenizer(tmp_path / "whole")
    with pytest.raises(Killed):
        tokenizer(tmp_path / "stopped", 2)  # before the codebook exists
    with pytest.raises(Killed):
        tokenizer(tmp_path / "stopped", 5)  # among the quantised steps; initialising the codebook draws pictures too
    with pytest.raises(Killed):
        tokenizer(tmp_path / "stopped", 5)  # among the steps with the selected codes
    resumed = tokenizer(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def start(recipe: Path, out: Path) -> ForkedCommand:
    return ForkedCommand(main, "tiny", "--recipe", recipe, "--out", out, log=out.with_suffix(".log"))


def finish(recipe: Path, out: Path) -> None:
    run = start(recipe, out)
    assert run.wait() == 0, run.printed


def kill_after(recipe: Path, out: Path, marker: Path) -> None:
    """Start a run and kill it as soon as a file appears."""
    run = start(recipe, out)
    deadline = time.monotonic() + 120
    while run.running and not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.running, "the run ended before it could be killed"
    run.kill()


@pytest.mark.long
def test_a_killed_and_resumed_run_gives_the_weights_of_a_whole_run(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL_RECIPE)
    finish(recipe, tmp_path / "whole")
    for marker in (Path("sft", "base.safetensors"), Path("grpo", "latest")):
        kill_after(recipe, tmp_path / "killed", tmp_path / "killed" / marker)
    finish(recipe, tmp_path / "killed")
    for name in ("tiny-base", "tiny-sft", "tiny"):
        a, b = (load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "killed"))
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), key
    curve = (tmp_path / "killed" / "sft" / "curve.csv").read_text().splitlines()
    assert curve[0].startswith("step,loss")
    assert (tmp_path / "killed" / "sft" / "curve.png").read_bytes().startswith(b"\x89PNG")
    losses = [float(line.split(",")[1]) for line in curve[1:]]
    assert losses[-1] < math.log(64)  # below chance over 64 codes
    assert not list((tmp_path / "killed").rglob(".*partial"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_runs_on_a_gpu_and_its_checkpoint_loads(tmp_path: Path, small_recipe: TinyRecipe) -> None:
    finished = train_tiny(small_recipe, tmp_path, torch.device("cuda"))
    codes = generate(load(finished["tiny"], device="cuda", dtype="float32"), ["a red star"], seeds=[1])
    assert codes.shape == (1, 64)
