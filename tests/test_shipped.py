"""The shipped checkpoints: names and size, use with plain transformers, and scores on unseen prompts."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, JanusForConditionalGeneration

from bench.world.pairshapes import unseen_prompts
from bench.world.reconstruction import reconstruction_scores
from model.checkpoints.load import load
from model.checkpoints.shipped import SHIPPED, shipped_names
from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.prompt import encode_prompt
from pairs.judges.exact.exact_judge import ExactJudge
from pairs.scores import mean
from pairs.world import World
from train.tiny.recipe import load_recipe

PROMPTS = unseen_prompts(World(load_recipe("tiny").held_out), 8)


@pytest.fixture(scope="module")
def tiny() -> Janus:
    return load("tiny", device="cpu")


def score(janus: Janus) -> float:
    """Mean judge score over unseen prompts, one picture each, at the checkpoint's own sampling settings."""
    captions = [prompt.caption for prompt in PROMPTS]
    codes = generate(janus, captions, seeds=list(range(len(captions))))
    pictures = [Image.fromarray(picture) for picture in ImageTokenizer(janus).images(codes).numpy()]
    judgements = ExactJudge()(pictures, captions)
    return float(np.mean([judgement.score for judgement in judgements if judgement is not None]))


def test_names_and_size() -> None:
    assert shipped_names() == ["tiny", "tiny-base", "tiny-sft"]
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 32e6


def test_all_checkpoints_are_stages_of_one_training() -> None:
    """They have the same tokenizers and image decoder, so equal codes give equal pictures; decoder layers differ."""
    states = {name: load(name, device="cpu", dtype="source").network.state_dict() for name in shipped_names()}
    for one, other in combinations(states.values(), 2):
        assert one.keys() == other.keys()
        same = {name for name in one if torch.equal(one[name], other[name])}
        assert {name for name in one if name.startswith("model.vqmodel.")} <= same
        assert not any(name.startswith("model.language_model.layers.") for name in same)
    assert len({(SHIPPED / name / "tokenizer.json").read_bytes() for name in states}) == 1


def test_the_sampling_settings_of_tiny_are_guided(tiny: Janus) -> None:
    assert tiny.sampling.guidance_scale >= 2
    assert tiny.sampling.temperature == 1


def test_tiny_follows_unseen_prompts_better_than_tiny_base(tiny: Janus) -> None:
    """48 pictures suffice to tell 0.85 from 0.7; bench/world/pairshapes.py measures the exact scores."""
    assert score(tiny) >= 0.7
    assert score(load("tiny-base", device="cpu")) <= score(tiny) - 0.1


def test_reconstructed_pictures_keep_their_judge_scores(tiny: Janus) -> None:
    assert mean(reconstruction_scores(tiny, PROMPTS, ExactJudge())).value >= 0.95


@pytest.mark.parametrize("name", shipped_names())
def test_plain_transformers_gives_the_same_greedy_codes(name: str) -> None:
    folder: Path = SHIPPED / name
    plain = JanusForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    janus = load(name, device="cpu")
    row = torch.tensor(encode_prompt(tokenizer.backend_tokenizer, "two green hearts"))[None]
    theirs = plain.generate(
        row, attention_mask=torch.ones_like(row), generation_mode="image", do_sample=False, guidance_scale=2
    )
    ours = generate(janus, ["two green hearts"], seeds=[0], guidance_scale=2, temperature=0)
    assert theirs.tolist() == ours.tolist()
