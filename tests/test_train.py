"""Training: schedules, the codebook, batches that depend on the step alone, and runs that survive a kill."""

import math
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pairs.world import World
from train.data import SceneSource
from train.recipe import RecipeError, load_recipe
from train.schedule import warmup_cosine
from train.sft import Average, Batches, SFTSettings
from train.tokenizer import train_text_tokenizer
from train.vq_trainer import SphericalCodebook

SMALL = """
seed = 3
image_size = 64
held_out = [{ category = "counting", count = 3, colour = "green", shape = "star" }]
[data]
images = 64
[vq]
base_channels = 32
channel_multiplier = [1, 1, 1, 1]
num_res_blocks = 0
latent_channels = 32
embed_dim = 8
num_embeddings = 64
[vq_training]
steps = 6
batch_size = 2
learning_rate = 1e-3
continuous_steps = 2
[language]
vocab_size = 300
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 128
[sft]
steps = 40
batch_size = 2
learning_rate = 1e-3
warmup = 2
weight_decay = 0.05
drop_prompt = 0.1
average_decay = 0.9
base_at = 0.5
[sampling]
guidance_scale = 2.0
temperature = 1.0
top_k = 0
top_p = 1.0
"""


def test_warmup_cosine() -> None:
    rates = [warmup_cosine(s, total=110, warmup=10, peak=1.0, floor=0.1) for s in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates[60] == pytest.approx(0.55)  # half way down
    assert rates[110] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_spherical_codebook_finds_the_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = nn.functional.normalize(torch.randn(8, 4, generator=generator), dim=-1)
    latents = nn.functional.normalize(centres.repeat(50, 1) + 0.02 * torch.randn(400, 4, generator=generator), dim=-1)
    book = SphericalCodebook(nn.Embedding(16, 4), decay=0.9, restart_below=0.01)
    book.start(latents, generator)
    nearest, _ = book(latents)
    assert (nearest * latents).sum(-1).min() > 0.99
    torch.testing.assert_close(book.embedding.weight.norm(dim=-1), torch.ones(16))


def test_dead_codes_are_restarted() -> None:
    book = SphericalCodebook(nn.Embedding(4, 3), decay=0.5, restart_below=0.1)
    latents = nn.functional.normalize(torch.tensor([[1.0, 0.1, 0.0], [0.9, 0.2, 0.1]]), dim=-1)
    for _ in range(20):
        _, codes = book(latents)
        book.follow(latents, codes)
    dead = int((book.usage < 0.1).sum())
    assert dead >= 2
    restarted = book.restart(latents, torch.Generator().manual_seed(0))
    assert restarted == min(dead, len(latents))
    assert int((book.usage < 0.1).sum()) == dead - restarted


def test_average_starts_as_the_mean() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average = Average({"p": parameter}, decay=0.999)
    for value in (1.0, 2.0, 6.0):
        parameter.data.fill_(value)
        average.update({"p": parameter})
    assert float(average.tensors["p"]) == pytest.approx(3.0)


def settings(**changes: float) -> SFTSettings:
    base = {
        "steps": 10, "batch_size": 4, "learning_rate": 1e-3, "warmup": 1, "weight_decay": 0.0,
        "drop_prompt": 0.25, "average_decay": 0.9, "base_at": 0.5,
    }  # fmt: skip
    return SFTSettings(**(base | changes))  # type: ignore[arg-type]


def test_batches_depend_on_the_step_alone_and_cover_an_epoch_once() -> None:
    source = SceneSource(World(), 0, 64)
    tokenizer = train_text_tokenizer((source.caption(i, 0) for i in range(200)), 400)
    codes = torch.arange(64)[:, None].expand(64, 5).to(torch.int16)
    first, second = (Batches(source, codes, tokenizer, settings()) for _ in range(2))
    ahead = second[17]
    assert torch.equal(first[17].ids, ahead.ids)
    rows = torch.cat([first[step].codes[:, 0] for step in range(16)])
    assert sorted(rows.tolist()) == list(range(64))
    # a share of the prompts is the unconditional row: BOS, pads, begin of image, all attended
    pad = tokenizer.pad_token_id
    dropped = sum(int((first[s].ids[i][first[s].mask[i] == 1][1:-1] == pad).all()) for s in range(16) for i in range(4))
    assert 6 <= dropped <= 28  # 64 · 0.25, three standard deviations each way


@pytest.mark.parametrize(
    ("change", "field"),
    [("seed = 3", "seed"), ("images = 64", "data.images"), ('category = "counting"', "held_out")],
)
def test_a_bad_recipe_names_file_and_field(tmp_path: Path, change: str, field: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(SMALL.replace(change, change.split("=")[0] + '= "many"'))
    with pytest.raises(RecipeError, match=rf"bad\.toml: {field}"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="tiny"):
        load_recipe("enormous")


def train(recipe: Path, out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "train.command", str(recipe), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_killed_run_ends_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(SMALL)
    whole = train(recipe, tmp_path / "whole")
    assert whole.wait(250) == 0, whole.stdout and whole.stdout.read()
    for marker in ("vq/state.pt", "sft/base.safetensors"):
        run = train(recipe, tmp_path / "killed")
        deadline = time.monotonic() + 120
        while run.poll() is None and not (tmp_path / "killed" / marker).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert train(recipe, tmp_path / "killed").wait(250) == 0
    for name in ("tiny", "tiny-base"):
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
