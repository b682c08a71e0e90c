"""The score table: which prompts it asks, that it resumes, and that it cannot mix checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.pairshapes import Picture, judge_pictures, table, unseen_cases
from model.checkpoint import load
from pairs.scene import CATEGORIES
from pairs.world import World
from train.recipe import load_recipe

WORLD = World(load_recipe("tiny").held_out)


def test_prompts_are_unseen_and_a_good_third_is_held_out() -> None:
    cases = unseen_cases(WORLD, 30)
    assert len(cases) == 30 * len(CATEGORIES)
    assert len({case.caption for case in cases}) == len(cases)
    assert all(not WORLD.allows(case.scene, "train") for case in cases)
    for category in CATEGORIES:
        chosen = [case for case in cases if case.category == category]
        assert len(chosen) == 30
        assert sum(case.held_out for case in chosen) >= 10
    assert [case.caption for case in unseen_cases(WORLD, 30)] == [case.caption for case in cases]


def test_results_resume_and_belong_to_one_checkpoint(tmp_path: Path, small_folder: Path) -> None:
    janus = load(small_folder, device="cpu")
    cases = unseen_cases(WORLD, 1)
    pictures = [Picture(case, scale, seed) for scale in (1.0, 2.0) for case in cases for seed in range(2)]
    results = tmp_path / "tiny.jsonl"
    whole = judge_pictures(janus, pictures, results, batch=8)
    lines = results.read_text().splitlines()
    assert len(lines) == 1 + len(pictures)
    # a killed run leaves some lines, the last one cut
    results.write_text("\n".join(lines[:9]) + "\n" + lines[9][:17])
    assert judge_pictures(janus, pictures, results, batch=5) == whole
    assert "overall" in table(cases, whole, [1.0, 2.0], range(2))
    with pytest.raises(ValueError, match="another checkpoint"):
        judge_pictures(replace(janus, name="other"), pictures, results, batch=8)
