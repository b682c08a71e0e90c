"""Seconds of a step by its size, from measurements of a machine that is noisy and changes its pace."""

import random

import pytest

from serve.engine.step_costs import FIRST, StepCosts

SIZES = (2, 4, 8, 16)


def test_sizes_between_and_beyond_measured_ones_lie_on_lines() -> None:
    costs = StepCosts()
    costs.add(4, 1.0)
    assert costs.line([2, 4, 64]) == [1.0, 1.0, 1.0]
    costs.add(8, 3.0)
    assert costs.line([4, 6, 8, 10]) == pytest.approx([1, 2, 3, 4])
    costs.add(12, 2.5)  # so one of 8 cannot take 3
    assert costs.line([6, 8, 12, 16]) == pytest.approx([1.75, 2.5, 2.5, 2.5])


def test_a_size_is_known_after_four_measurements_and_far_without_one_nearby() -> None:
    costs = StepCosts()
    for count in range(FIRST):
        assert not costs.known(10)
        assert costs.is_far(10) == (count == 0)
        costs.add(10, 1.0)
    assert costs.known(10)
    assert [fed for fed in range(6, 15) if not costs.is_far(fed)] == [9, 10, 11]


def test_all_sizes_follow_the_pace_of_the_one_in_use() -> None:
    """The machine becomes twice as slow while every step has the same size: sizes are compared as before."""
    costs = StepCosts()
    for _ in range(20):
        for fed in SIZES:
            costs.add(fed, 0.5 + fed / 8)
    for _ in range(200):
        costs.add(8, 0.5 + 8 / 8)
    before = costs.line(SIZES)
    for _ in range(100):
        costs.add(8, 2 * (0.5 + 8 / 8))
    assert costs.line(SIZES) == pytest.approx([2 * one for one in before], rel=0.15)


def test_few_steps_of_a_size_that_was_long_not_measured_tell_what_it_takes_now() -> None:
    """Steps of 8 become twice as slow while those of 2 stay as they were."""
    costs = StepCosts()
    for fed, seconds, times in ((2, 1.0, 20), (8, 2.0, 20), (2, 1.0, 1000), (8, 4.0, 8)):
        for _ in range(times):
            costs.add(fed, seconds)
    two, eight = costs.line([2, 8])
    assert eight / two == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_ratios_are_right_on_a_noisy_machine_whose_pace_changes(seed: int) -> None:
    """Noise of 12 %, a pace that is up to 1.6 times as slow for some while, and 400 steps, of which most have one size.

    A size of n measurements among them errs by 12 % ÷ √n, and by what the pace changed in between: less than 20 %.
    """
    rng = random.Random(seed)
    costs, pace = StepCosts(), 1.0
    for step in range(400):
        if rng.random() < 0.01:
            pace = rng.choice([1.0, 1.3, 1.6])
        fed = rng.choice(SIZES) if step % 10 == 0 else 8
        costs.add(fed, pace * (0.5 + fed / 8) * rng.lognormvariate(0, 0.12))
    found = costs.line(SIZES)
    for fed, seconds in zip(SIZES, found, strict=True):
        assert seconds / found[2] == pytest.approx((0.5 + fed / 8) / 1.5, rel=0.2)


def test_steps_may_take_less_where_few_were_measured() -> None:
    """By a standard error: next to nothing for the size in use, more for one that was not measured lately, or never."""
    costs = StepCosts()
    rng = random.Random(0)
    for fed, times in ((2, 50), (8, 500)):
        for _ in range(times):
            costs.add(fed, fed * rng.lognormvariate(0, 0.1))
    sizes = [2, 8, 16]
    less = [1 - one / other for one, other in zip(costs.least(sizes), costs.line(sizes), strict=True)]
    assert 0 < less[1] < 0.03
    assert 0.1 < less[0] < 0.25
    assert less[2] == pytest.approx(0.1, abs=0.04)


def test_a_step_that_stood_still_counts_as_one_that_took_twice_as_long() -> None:
    still, twice = StepCosts(), StepCosts()
    for costs, last in ((still, 1000.0), (twice, 2.0)):
        for seconds in (1.0, 1.0, 1.0, 1.0, last):
            costs.add(4, seconds)
        costs.add(4, 0.0)  # a clock that stands still tells nothing
    assert still.line([4]) == twice.line([4])
