"""Supervised fine-tuning of a checkpoint: rows, micro-batches, resuming, adapters, and what is saved."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from model.checkpoints.load import load
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from tests.ended import Ended
from tests.stopping import Killed, stopping_at
from train.command import main
from train.data.codes import CodeCache
from train.data.listed import open_pairs
from train.data.opening import DataSettings
from train.errors import TrainingError
from train.ranks import ALONE, Ranks
from train.recipe import RecipeError
from train.sft.batches import Batches
from train.sft.recipe import SFTRecipe, load_recipe
from train.sft.rows import PairRows
from train.sft.run import train
from train.sft.training import SFT
from train.weights.opening import open_weights
from train.weights.recipe import WeightsRecipe

COLOURS = {"red": (200, 0, 0), "blue": (0, 0, 200), "green": (0, 150, 0)}


@pytest.fixture
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """A pair and a single prompt, with pictures."""
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    rows = [
        {"prompt1": "a red star", "prompt2": "a blue star", "image1": "red.png", "image2": "blue.png"},
        {"prompt": "a green star", "image": "green.png"},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    return tmp_path / "pairs.json"


def recipe(**changes: object) -> SFTRecipe:
    base: dict[str, object] = {
        "steps": 6, "batch_size": 4, "learning_rate": 3e-3, "warmup": 1, "weight_decay": 0.0, "drop_prompt": 0.25,
        "unconditional_smoothing": 0.1, "save_every": 2,
    }  # fmt: skip
    return SFTRecipe.model_validate(base | changes)


def test_each_prompt_of_pairs_and_singles_is_a_row_with_its_own_picture(
    janus: Janus, pairs_file: Path, tmp_path: Path
) -> None:
    source, _ = open_pairs(pairs_file, janus)
    tokenizer = ImageTokenizer(janus)
    cache = CodeCache(tmp_path / "codes.sqlite", janus, tokenizer)
    rows = PairRows(source, cache)
    assert [rows.prompt(index, 0) for index in range(len(rows))] == ["a red star", "a blue star", "a green star"]
    for index, colour in enumerate(COLOURS.values()):
        pixels = torch.tensor(colour).float().div(127.5).sub(1)[None, :, None, None].expand(1, 3, 64, 64)
        assert torch.equal(rows.codes(index), tokenizer.encode(pixels)[0])
    cache.close()


def test_the_command_trains_on_a_file_and_saves_what_is_served(
    pairs_file: Path, tmp_path: Path, small_folder: Path, command: Callable[..., Ended]
) -> None:
    toml = tmp_path / "short.toml"
    toml.write_text(
        "steps = 40\nbatch_size = 4\nlearning_rate = 3e-3\nwarmup = 1\nweight_decay = 0\ndrop_prompt = 0.1\n"
    )
    call = ("sft", "--model", small_folder, "--recipe", toml, "--data", pairs_file, "--out", tmp_path / "run")
    ended = command(main, *call)
    assert ended.code == 0, ended.err
    assert "1 pairs and 1 single prompts are valid" in ended.out
    losses = [float(line.split(",")[1]) for line in (tmp_path / "run" / "curve.csv").read_text().splitlines()[1:]]
    assert len(losses) == 40
    assert losses[-1] < math.log(64) - 1  # chance over 64 codes, less a nat
    start, trained = (load_file(folder / "model.safetensors") for folder in (small_folder, tmp_path / "run" / "latest"))
    changed = {name for name, weight in trained.items() if not torch.equal(weight, start[name])}
    assert "model.language_model.embed_tokens.weight" in changed  # the pad row is in it
    assert not any(name.startswith(("model.vqmodel.", "model.vision_model.", "lm_head.")) for name in changed)
    load(tmp_path / "run" / "latest", device="cpu")


@pytest.mark.parametrize(
    "how",
    [
        {"matrix_learning_rate": 1e-3},
        {"average": False},
        {"weights": {"lora": {"rank": 4}}},
        {"weights": {"precision": "bfloat16"}},
    ],
)
def test_a_killed_run_equals_one_that_was_not(small_folder: Path, tmp_path: Path, how: dict[str, object]) -> None:
    def run(out: Path, stop_at: int | None = None) -> None:
        with stopping_at(stop_at):
            data = DataSettings("world")
            train(load(small_folder, device="cpu"), recipe(**how), out, data=data, ranks=ALONE)

    run(tmp_path / "whole")
    for step in (2, 5):
        with pytest.raises(Killed):
            run(tmp_path / "killed", step)
    run(tmp_path / "killed")
    whole, killed = (load_file(tmp_path / name / "latest" / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(weight, killed[name]) for name, weight in whole.items())
    assert values(tmp_path / "whole") == values(tmp_path / "killed")


def values(out: Path) -> list[dict[str, float]]:
    """Rows of a run's curve, without the time they took."""
    with open(out / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items() if name != "core seconds"} for row in rows]


def test_a_run_that_stops_writes_its_curve_up_to_the_stop(small_folder: Path, tmp_path: Path) -> None:
    """The learning rate is so large that the weights overflow."""
    chosen = recipe(learning_rate=1e30, save_every=6)
    with pytest.raises(TrainingError, match="the gradient's norm is nan") as stopped:
        train(load(small_folder, device="cpu"), chosen, tmp_path, data=DataSettings("world"), ranks=ALONE)
    stop = int(str(stopped.value).split(":")[0].removeprefix("stopped at step "))
    assert stop > 1
    assert [row["step"] for row in values(tmp_path)] == list(range(1, stop))


def test_micro_batches_make_the_same_step(small_folder: Path, tmp_path: Path) -> None:
    results = []
    for size in (0, 3):
        chosen = recipe(steps=1, micro_batch=size, average=False)
        out = tmp_path / str(size)
        train(load(small_folder, device="cpu"), chosen, out, data=DataSettings("world"), ranks=ALONE)
        (row,) = values(out)
        results.append([row["loss"], row["gradient norm"]])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_the_saved_weights_are_the_average_and_training_goes_on_from_the_present_ones(janus: Janus) -> None:
    weights = open_weights(janus, ALONE, WeightsRecipe())

    class Rows:
        def __len__(self) -> int:
            return 8

        def prompt(self, index: int, epoch: int) -> str:
            return f"{index} red stars"

        def codes(self, index: int) -> torch.Tensor:
            return torch.full((64,), index)

    chosen = recipe()
    sft = SFT(weights, Batches(Rows(), janus, chosen), chosen)
    for step in range(3):
        sft.step(step)
    name = "model.generation_head.vision_head.weight"
    present = weights.parameters[name].detach().clone()
    with sft.published():
        served = janus.network.state_dict()[name].clone()
    assert torch.equal(served, sft.tensors[name])
    assert not torch.equal(served, present)
    assert torch.equal(weights.parameters[name], present)


def test_what_cannot_be_followed_is_refused(
    janus: Janus, small_folder: Path, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    weights = open_weights(janus, ALONE, WeightsRecipe())
    with pytest.raises(TrainingError, match="batch_size is 4: no multiple of 3 processes"):
        SFT(weights, None, recipe(), Ranks("ddp", 0, 3))  # type: ignore[arg-type]
    weights.sharded = True
    with pytest.raises(TrainingError, match="matrix_learning_rate must be 0 with --parallel fsdp"):
        SFT(weights, None, recipe(matrix_learning_rate=1e-3), ALONE)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="average must be false"):
        SFT(weights, None, recipe(), ALONE)  # type: ignore[arg-type]
    for name in ("world", "janus_pro", "janus_pro_lora"):
        load_recipe(name)
    with pytest.raises(RecipeError, match="no recipe 'none': give one of janus_pro, janus_pro_lora, world"):
        load_recipe("none")
    with pytest.raises(ValueError, match=r"matrix_learning_rate must be 0 with weights\.lora"):
        recipe(matrix_learning_rate=1e-3, weights={"lora": {}})
    (tmp_path / "prompts.txt").write_text("a red star\n")
    ended = command(main, "sft", "--model", small_folder, "--data", tmp_path / "prompts.txt", "--out", tmp_path / "run")
    assert ended.code == 2
    assert "has no pictures, which supervised fine-tuning needs" in ended.err
