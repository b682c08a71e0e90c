"""Expected gain of windows."""

import random

import pytest

from serve.engine.confirmation import HEIGHTS, Confirmation, reach
from serve.engine.job import JobState
from serve.engine.slot import Slot
from tests.drawing import GREEDY, job

TOKENS = 64


def image(*, has_twin: bool = False, sampled: int = 0) -> Slot:
    return Slot(JobState(job([1], GREEDY, 0)), 0, (0, 1), has_twin=has_twin, sampled=sampled)


def test_heights_divide_a_picture_into_equal_parts() -> None:
    confirmation = Confirmation(TOKENS)
    heights = [confirmation.height(sampled) for sampled in range(TOKENS + 1)]
    assert all(confirmation.codes_below(height) == heights.index(height + 1) for height in range(HEIGHTS - 1))
    assert [heights.count(height) for height in range(HEIGHTS)] == [8] * 7 + [9]  # a complete one is at the last


def test_gains_come_near_to_what_windows_of_a_kind_add_at_a_height() -> None:
    """At height h windows add h / 8 of their reach, a code more or less; with a twin, nothing is learned of those without."""
    rng, confirmation = random.Random(0), Confirmation(TOKENS)
    before = [confirmation.gain(image(sampled=8 * height), everywhere=False) for height in range(HEIGHTS)]
    for _ in range(300):
        for height in range(HEIGHTS):
            added = int(reach(5) * height / 8 + rng.random())
            confirmation.add(image(has_twin=True), height, 5, added)
    for height in range(HEIGHTS):
        found = confirmation.gain(image(has_twin=True, sampled=8 * height), everywhere=False)
        assert found == pytest.approx(height / 8, abs=0.08)
        assert confirmation.gain(image(sampled=8 * height), everywhere=False) == before[height]
    whole = confirmation.gain(image(has_twin=True), everywhere=True)
    assert whole == pytest.approx(sum(range(HEIGHTS)) / 8 / HEIGHTS, abs=0.05)


def test_an_image_s_own_windows_count_beside_those_of_its_kind() -> None:
    """An image at the top, where windows add little, is not taken for one whose windows add little everywhere."""
    confirmation = Confirmation(TOKENS)
    for _ in range(200):
        for height in range(HEIGHTS):
            confirmation.add(image(has_twin=True), height, 3, 0 if height == 0 else 1)
    usual, own = image(has_twin=True), image(has_twin=True)
    for _ in range(20):
        confirmation.add(usual, 0, 3, 0)
    usual.sampled = 32
    fresh = confirmation.gain(image(has_twin=True, sampled=32), everywhere=False)
    assert confirmation.gain(usual, everywhere=False) == pytest.approx(fresh, rel=0.25)
    for _ in range(40):
        confirmation.add(own, 4, 3, 2)
    own.sampled = 40
    assert confirmation.gain(own, everywhere=False) > 1.5 * fresh
