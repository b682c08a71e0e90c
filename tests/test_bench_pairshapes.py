"""The score table: its prompts, resuming, refusing another checkpoint's results, and its statistics."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.quality.pairshapes import Picture, Result, judge_pictures, table, unseen_prompts
from model.checkpoints.load import load
from pairs.scene import CATEGORIES
from pairs.world import World
from train.tiny.recipe import load_recipe

WORLD = World(load_recipe("tiny").held_out)


def test_prompts_are_unseen_and_at_least_a_third_is_held_out() -> None:
    prompts = unseen_prompts(WORLD, 30)
    assert len(prompts) == 30 * len(CATEGORIES)
    assert len({prompt.caption for prompt in prompts}) == len(prompts)
    assert all(not WORLD.allows(prompt.scene, "train") for prompt in prompts)
    for category in CATEGORIES:
        chosen = [prompt for prompt in prompts if prompt.category == category]
        assert len(chosen) == 30
        assert sum(prompt.held_out for prompt in chosen) >= 10
    assert [prompt.caption for prompt in unseen_prompts(WORLD, 30)] == [prompt.caption for prompt in prompts]


def test_results_resume_and_belong_to_one_checkpoint(tmp_path: Path, small_folder: Path) -> None:
    janus = load(small_folder, device="cpu")
    prompts = unseen_prompts(WORLD, 1)
    pictures = [Picture(prompt, scale, seed) for scale in (1.0, 2.0) for prompt in prompts for seed in range(2)]
    results = tmp_path / "tiny.jsonl"
    whole = judge_pictures(janus, pictures, results, slots=8)
    lines = results.read_text().splitlines()
    assert len(lines) == 1 + len(pictures)
    # a killed run leaves whole lines and a cut one, or only a cut first line, or an empty file
    for left in ("\n".join(lines[:9]) + "\n" + lines[9][:17], lines[0][:30], ""):
        results.write_text(left)
        assert judge_pictures(janus, pictures, results, slots=5) == whole
    more = [Picture(prompt, 1.0, 0) for prompt in unseen_prompts(WORLD, 2)]  # the same prompts have other indices here
    again = judge_pictures(janus, more, results, slots=8)
    assert again == judge_pictures(janus, more, tmp_path / "fresh.jsonl", slots=8) | whole
    assert "overall" in table(prompts, whole, [1.0, 2.0], range(2))
    with pytest.raises(ValueError, match="another checkpoint"):
        judge_pictures(replace(janus, name="other"), pictures, results, slots=8)


def test_table_of_known_results() -> None:
    """Means computed by hand: one category scores 1 and 0.5, the others 0; one prompt has two equal pictures."""
    prompts = unseen_prompts(WORLD, 2)
    first = [prompt for prompt in prompts if prompt.category == "appearance"]
    results = {(prompt.caption, 2.0, seed): Result(0.0, f"{seed}") for prompt in prompts for seed in range(2)}
    for seed in range(2):
        results[(first[0].caption, 2.0, seed)] = Result(1.0, f"{seed}")
        results[(first[1].caption, 2.0, seed)] = Result(0.5, "same")
    rows = {line[:24].strip(): line[24:].split() for line in table(prompts, results, [2.0], range(2)).splitlines()}
    assert rows["appearance"] == ["0.750", "±", "0.250"]
    assert rows["overall"][0] == f"{1.5 / len(prompts):.3f}"
    assert rows["worst category"] == ["0.000"]
    assert rows["all 2 pictures differ"] == [str(len(prompts) - 1), "of", str(len(prompts))]


def test_gain_by_guidance_is_paired_by_prompt() -> None:
    """Scores differ widely between prompts, but each gains exactly 0.1, so the gain's standard error is 0."""
    prompts = unseen_prompts(WORLD, 2)
    results = {
        (prompt.caption, scale, seed): Result(prompt.index / 20 + (0.1 if scale == 2 else 0), f"{seed}")
        for prompt in prompts
        for scale in (1.0, 2.0)
        for seed in range(2)
    }
    (line,) = (
        line
        for line in table(prompts, results, [1.0, 2.0], range(2)).splitlines()
        if line.startswith("gain over guidance 1")
    )
    assert line[24:].split() == ["0.000", "±", "0.000", "0.100", "±", "0.000"]
