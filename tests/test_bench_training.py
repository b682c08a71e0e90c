"""The bench of training: peak memory against a count by hand, and what its numbers must satisfy."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.command import main
from bench.speed.memory import peak_bytes
from bench.speed.training import time_passes, time_rollouts, time_steps
from model.checkpoints.load import load
from tests.ended import Ended
from train.grpo.recipe import load_recipe


def test_peak_memory_is_what_was_held_at_once() -> None:
    def work() -> None:
        first = torch.zeros(1000, dtype=torch.float64)
        second = first + 1
        del first
        third = second * 2  # takes the place of the first
        del second, third
        torch.zeros(10)

    assert peak_bytes(work, torch.device("cpu")) == pytest.approx(2 * 8000, abs=100)


def test_shared_prompts_and_activation_checkpointing_take_less_memory(small_folder: Path) -> None:
    janus = load(small_folder, device="cpu")
    passes = time_passes(janus, load_recipe("pair_grpo"), 4, rounds=1)
    shared, apart, checkpointed = (one.peak for one in passes.values())
    assert checkpointed < shared < apart
    assert not janus.network.is_activation_checkpointing
    assert set(time_rollouts(janus, 2, rounds=1)) == {
        "engine, together",
        "engine, one at a time",
        "growing cache, together",
        "growing cache, one at a time",
    }


def test_a_step_has_samples_and_the_judge_is_a_part_of_drawing() -> None:
    recipe = load_recipe("pair_grpo")
    few = recipe.rollout.model_copy(update={"pairs": 2, "samples": 4})
    times = time_steps(load("tiny-base", device="cpu"), recipe.model_copy(update={"rollout": few}), steps=1)
    assert 16 <= times.samples <= 20  # 2 × 2 × 4 rollouts, and up to 4 ground-truth pictures
    assert 0 < times.judging < times.seconds["draw and judge"] < times.whole
    assert 0 < times.live <= 1


def test_a_setting_out_of_range_is_named(command: Callable[..., Ended]) -> None:
    ended = command(main, "training", "--steps", "0")
    assert ended.code == 2
    assert "--steps must be at least 1, not 0" in ended.err
