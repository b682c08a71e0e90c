"""Estimated waits: steps in which the machine stalls do not change them, and their error is bounded."""

import random
import statistics
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.attention import Rows
from model.janus import Janus
from model.kv_cache import KVCache
from serve.engine.engine import Engine
from serve.engine.events import Started
from serve.engine.job import JobState
from serve.engine.step_times import RecentSeconds, StepTimes
from tests.drawing import GREEDY, Clock, job

usual = st.floats(0.01, 0.02)


@given(usual=st.lists(usual, min_size=1, max_size=60), stalls=st.lists(st.floats(1, 1e6), max_size=4), data=st.data())
def test_one_outlier_in_16_leaves_the_mean_in_the_range_of_the_others(
    usual: list[float], stalls: list[float], data: st.DataObject
) -> None:
    """Outliers of any size, anywhere among the latest 64 measurements."""
    while len(stalls) > len(usual + stalls) - int(len(usual + stalls) * 15 / 16):
        stalls.pop()
    measured = RecentSeconds()
    for seconds in data.draw(st.permutations([*usual, *stalls])):
        measured.add(seconds)
    assert min(usual) * (1 - 1e-9) <= measured.mean <= max(usual) * (1 + 1e-9)


@given(before=st.lists(usual, max_size=200), now=usual)
def test_the_mean_follows_a_machine_that_has_become_slower(before: list[float], now: float) -> None:
    """64 measurements are kept, so 64 new ones replace all earlier ones."""
    measured = RecentSeconds()
    for seconds in [*before, *[now] * 64]:
        measured.add(seconds)
    assert measured.mean == pytest.approx(now)


def test_parts_of_a_step_are_measured_separately() -> None:
    """Each step decodes for 1 s; starting takes 5 s per image, ending 9 s."""
    clock = Clock()
    times = StepTimes(clock)
    for started, ended in [(0, 0), (2, 0), (0, 3), (1, 1), (0, 0)]:
        with times.step():
            clock.now += 1
            if started:
                with times.starting(range(started)):
                    clock.now += 5 * started
            if ended:
                with times.ending(range(ended)):
                    clock.now += 9 * ended
        assert times.latest == 1 + 5 * started + 9 * ended
    assert times.decoding == 1
    assert times.estimate(10, images=3) == 10 + 3 * (5 + 9)


def test_an_end_apart_takes_what_it_takes_longer_than_one_beside_others() -> None:
    """9 s alone, 6 s an image for three; before both were seen, a tenth of what is known; never less than nothing."""
    clock = Clock()
    times, faster = StepTimes(clock), StepTimes(clock)
    assert times.ending_apart == 0
    for images, seconds, apart in ((1, 9, 0.9), (3, 18, 3.0)):
        with times.ending(range(images)):
            clock.now += seconds
        assert times.ending_apart == pytest.approx(apart)
    for images, seconds in ((1, 2), (2, 10)):
        with faster.ending(range(images)):
            clock.now += seconds
    assert faster.ending_apart == 0


@pytest.fixture(scope="module")
def prompt(golden: Mapping[str, Tensor]) -> list[int]:
    ids: list[int] = golden["prompt0.input_ids"].tolist()
    return ids


@pytest.mark.parametrize("jacobi", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_estimated_waits_are_near_although_steps_stall(
    deepseek: Janus, prompt: list[int], monkeypatch: pytest.MonkeyPatch, seed: int, jacobi: bool
) -> None:
    """Jobs of one or ten images; steps take about 1 s, pixels 3 s an image; one step in 40 stalls for 60 s.

    Future stalls cannot be predicted, so they are subtracted from the measured wait.
    """
    rng = random.Random(seed)
    clock = Clock()
    engine = Engine(deepseek, slots=2, jacobi=jacobi, clock=clock)
    step, images, stalled = engine.decoder.step, engine.image_tokenizer.images, 0.0

    def timed_step(codes: Tensor, rows: Rows, cache: KVCache) -> Tensor:
        nonlocal stalled
        stall = 60.0 if rng.random() < 1 / 40 else 0.0
        stalled += stall
        clock.now += rng.uniform(0.8, 1.2) * (1 + (rows.count - 4) / 30) + stall
        return step(codes, rows, cache)

    def timed_images(codes: Tensor) -> Tensor:
        clock.now += 3 * len(codes)
        return images(codes)

    monkeypatch.setattr(engine.decoder, "step", timed_step)
    monkeypatch.setattr(engine.image_tokenizer, "images", timed_images)
    told: dict[JobState, tuple[float, float]] = {}  # estimate, and the clock without stalls
    ratios = []
    for number in range(1500):
        if number % (43 if jacobi else 97) == 0:
            estimate = engine.wait_seconds
            state = engine.submit(job(prompt, GREEDY, *range(10 * number, 10 * number + rng.choice((1, 10)))))
            if number > 300:  # by now every part of a step has been measured
                told[state] = estimate, clock.now - stalled
        for state, event in engine.step():
            if isinstance(event, Started) and event.index == 0 and state in told:
                estimate, since = told[state]
                waited = clock.now - stalled - since
                if waited > 2 * deepseek.image_tokens:
                    ratios.append(estimate / waited)
    assert len(ratios) > 3
    if jacobi:  # how many codes a step adds is known on average only
        ratios = [statistics.median(ratios)]
    assert all(0.9 < ratio < 1.1 for ratio in ratios), ratios
