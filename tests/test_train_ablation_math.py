"""Scores and statistics of the ablation, by hand, against scipy, and by simulation."""

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from train.ablation.gradient_report import gradient_lines, relative_quality
from train.ablation.gradients import Alignments
from train.ablation.scores import CaseScores
from train.ablation.statistics import Difference, difference, holm
from train.grpo.recipe import GRPORecipe
from train.grpo.rollout.plan import GroundTruth, PairPlan
from train.grpo.rollout.samples import Samples
from train.grpo.step_samples import advantages_of


def test_scores_of_cases_by_hand() -> None:
    own = np.array([[[1.0, 0.5], [0.25, 0.5]], [[1.0, 1.0], [1.0, 0.0]]])
    other = np.array([[[0.9, 0.4], [0.2, 0.4]], [[0.0, 0.0], [0.0, 0.0]]])
    codes = np.array([[[[1, 2], [1, 3]], [[4, 5], [5, 4]]], [[[1, 1], [1, 1]], [[2, 2], [2, 2]]]])
    scores = CaseScores(own, other, codes)
    assert scores.s_a.tolist() == [0.5625, 0.75]
    assert scores.s_g == pytest.approx([0.5, 0.0])  # (1 · ½ · ¼ · ½)^¼
    assert scores.noticed.tolist() == [True, False]  # a picture that fits neither prompt tells nothing
    assert scores.diversity == pytest.approx((0.5 + 1 + 0 + 0) / 4)


def test_without_variation_between_cases_the_interval_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    after, before = rng.normal(0.6, 0.05, 5), rng.normal(0.5, 0.05, 5)
    found = difference(np.tile(after[:, None], 40), np.tile(before[:, None], 40))
    expected = ttest_rel(after, before)
    assert found.value == pytest.approx((after - before).mean())
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))


def test_the_interval_covers_the_truth_when_seeds_and_cases_are_new() -> None:
    """Effects of seeds, of cases and of single pictures, all drawn anew: at least 95 % of 300 intervals cover 0.1."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(300):
        seeds, cases = rng.normal(0, 0.02, (5, 1)), rng.normal(0, 0.3, (1, 300))
        after = 0.1 + seeds + cases + rng.normal(0, 0.3, (5, 300))
        low, high = difference(after, np.zeros_like(after)).interval
        hits += low < 0.1 < high
    assert hits >= 0.93 * 300  # less than two standard errors of the count under 95 %


def test_the_smallest_detectable_difference_is_found_four_times_in_five() -> None:
    """A shift of that size, with noise of the assumed standard error, is outside the interval in 80 % of the draws."""
    rng, error, draws = np.random.default_rng(2), 0.02, 4000
    size = Difference(0.0, error, 5).smallest_detectable
    values = size + rng.normal(0, error * np.sqrt(5), (draws, 5))
    found = [Difference(row.mean(), row.std(ddof=1) / np.sqrt(5), 5).interval[0] > 0 for row in values]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)


def test_holm_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_ground_truth_with_a_fixed_advantage_is_in_no_group() -> None:
    """Rollouts are compared among themselves, whatever the ground truth's reward; a dead group does not silence it."""
    plan = PairPlan(0, 0, ("a", "b"), ((1, 2), (3, 4)), (GroundTruth(0, 0), GroundTruth(1, 1)))
    rewards = torch.tensor([0.0, 1.0, 0.5, 0.5, 1.0, 1.0])
    samples = Samples((plan,), torch.zeros(6, 4, dtype=torch.int64), torch.zeros(6, 4), rewards)
    recipe = GRPORecipe.model_validate(
        {
            "steps": 1,
            "rollout": {"pairs": 1, "samples": 2, "guidance_scale": 2.0},
            "ground_truth": {"use": "positive", "advantage": 0.7},
            "advantage": {"normalise": "none"},
            "update": {"learning_rate": [{"at": 0, "value": 1e-4}]},
        }
    )
    found = advantages_of(samples, recipe)
    assert found.values.tolist() == pytest.approx([-0.5, 0.5, 0.0, 0.0, 0.7, 0.7])
    assert found.live.tolist() == [True, False]
    assert found.scored.all()


def test_a_gradient_with_twice_the_signal_has_twice_the_quality() -> None:
    """Products and squares of made-up gradients in 50 dimensions; one arm has twice the other's signal, same noise."""
    rng = np.random.default_rng(3)
    true, directions = np.eye(50)[0], np.eye(50)[0] + rng.normal(0, 0.3, (8, 50))

    def arm(signal: float, scale: float) -> Alignments:
        gradients = scale * (signal * true + np.random.default_rng(4).normal(0, 1, (400, 50)))
        return Alignments(gradients @ directions.T, (gradients**2).sum(1))

    value, (low, high) = relative_quality(arm(1.0, 7.0), arm(0.5, 1.0))
    assert value == pytest.approx(2.0, rel=0.1)  # whatever the scale
    assert low < value < high
    same, interval = relative_quality(arm(0.5, 3.0), arm(0.5, 1.0))
    assert (same, *interval) == pytest.approx((1.0, 1.0, 1.0))


def test_estimates_and_runs_stand_beside_each_other() -> None:
    """Qualities 1, 2, 3 and gains 0.3, 0.1, 0.2 of the trained arms have rank correlation −1/2; the base arm has no gain."""

    def of_quality(value: float) -> Alignments:
        return Alignments(np.full((4, 2), value), np.ones(4))

    alignments = {"base": of_quality(0.5), "a": of_quality(0.5), "b": of_quality(1.0), "c": of_quality(1.5)}
    gains = {"a": Difference(0.3, 0.01, 5), "b": Difference(0.1, 0.01, 5), "c": Difference(0.2, 0.01, 5)}
    lines = list(gradient_lines(alignments, "base", gains))
    assert lines[2] == "| base | 1.00 | 1.00 to 1.00 | | |"
    assert lines[4].startswith("| b | 2.00 | 2.00 to 2.00 | +0.100 | +0.072 to +0.128 |")  # t(4) reaches 2.776 errors
    assert "3 arms: -0.50" in lines[-1]
