"""The ablation's report on made-up results, whose effects are known."""

import tomllib
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from pairs.miniature import miniature_cases
from train.ablation.report import Report
from train.ablation.results import Cost, Result
from train.ablation.study import Study
from train.recipe import RECIPES

STUDY = Study.model_validate(tomllib.loads((RECIPES / "ablation.toml").read_text()))
STYLE = np.array([case.category == "style" for case in miniature_cases("test")])


def result(arm: str, seed: int, level: float, *, style: float = 0.0) -> Result:
    """Every picture of the trained categories is judged `level`, plus noise of the case and a little of the seed."""
    cases = len(STYLE)
    noise = np.random.default_rng(7).normal(0, 0.05, cases) + np.random.default_rng(seed).normal(0, 0.005)
    level_by_case = np.where(STYLE, style, level + noise).clip(0, 1)
    own = np.repeat(level_by_case, 4).reshape(cases, 2, 2)
    scores = dict.fromkeys(("guidance 1", "guidance 2", "guidance 3", "served"), (own, own[:, 0, 0] > 0.5))
    diversity = dict.fromkeys(scores, 0.5)
    return Result("tiny-base", arm, seed, 1.0, "test", {}, Cost(7.0, 100), diversity, 0.5, 0.8, 0.03, {}, scores)


@pytest.fixture(scope="module")
def results() -> Mapping[str, Sequence[Result]]:
    levels = {"vanilla": 0.5, "sft": 0.5, "pair": 0.6, "pair_grpo": 0.45}
    made = {arm: [result(arm, seed, level, style=0.9) for seed in range(5)] for arm, level in levels.items()}
    return made | {"frozen": [result("frozen", 0, 0.3)], "factors": [result("factors", 0, 0.9)]}


def test_verdicts_follow_the_effects(results: Mapping[str, Sequence[Result]]) -> None:
    """The left-out category counts for nothing; the one run of the start stands for all seeds; one seed is too few."""
    found = {(one.after, one.before): one for one in Report(STUDY, results).contrasts()}
    assert found.keys() == {
        ("vanilla", "frozen"), ("vanilla", "sft"), ("pair", "vanilla"), ("pair_grpo", "vanilla")
    }  # fmt: skip
    verdicts = {names: one.verdict for names, one in found.items()}
    assert verdicts == {
        ("vanilla", "frozen"): "better",
        ("vanilla", "sft"): "not resolved",
        ("pair", "vanilla"): "better",
        ("pair_grpo", "vanilla"): "worse",
    }
    assert found["pair", "vanilla"].gain.value == pytest.approx(0.1, abs=1e-6)
    assert found["vanilla", "frozen"].gain.value == pytest.approx(0.2, abs=0.01)
    assert all(one.adjusted >= one.gain.p_value for one in found.values())


def test_tables_have_a_row_for_each_arm_and_contrast(results: Mapping[str, Sequence[Result]]) -> None:
    lines = list(Report(STUDY, results).lines())
    assert sum(line.startswith("| pair |") for line in lines) == 3
    assert sum(line.startswith("| pair − vanilla | +0.100 |") for line in lines) == 1
    row = next(line for line in lines if line.startswith("| vanilla | GRPO"))
    assert row.split(" | ")[2] == "5"
    (effects,) = (line for line in lines if line.startswith("| sft | ") and "0.500 / 0.800" in line)
    assert effects.split(" | ")[2] == "0.900 ± 0.000"  # of the left-out category
    assert not any(line.startswith("| attention ") for line in lines)
