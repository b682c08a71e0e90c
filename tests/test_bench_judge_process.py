"""The exact judge in a process of its own: the same scores, its errors, its end."""

import os
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker

import psutil
import pytest
from PIL import Image

from bench.judging.judge_process import JudgeProcess, judged_apart
from pairs.judges.errors import JudgeError
from pairs.judges.judge import Judgement
from pairs.judges.opening import OpenedJudge, open_judge
from pairs.judges.settings import JudgeSettings
from pairs.render import render
from pairs.scene import Group, Scene

PICTURE = Image.new("RGB", (8, 8))


def scores_its_process(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
    return [Judgement(float(os.getpid())), None]


def fails_at_noise(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
    if "noise" in prompts:
        raise ValueError("a prompt is noise")
    return [Judgement(1.0)] * len(prompts)


def test_scores_are_those_of_the_exact_judge(processes_end: None) -> None:
    scenes = [Scene((Group(count, "red", "circle"),)) for count in (2, 3, 4)]
    pictures = [Image.fromarray(render(scene, 1)) for scene in scenes]
    prompts = ["three red circles", "three red circles", "a dog in Rome"]
    exact = open_judge(JudgeSettings())
    with judged_apart(exact) as apart:
        assert isinstance(apart.judge, JudgeProcess)
        found = [apart.judge(pictures, prompts), apart.judge(pictures[1:2], prompts[:1])]
        assert (apart.identity, apart.reads(prompts[2])) == (exact.identity, False)
    assert found == [exact.judge(pictures, prompts), exact.judge(pictures[1:2], prompts[:1])]
    assert [one if one is None else one.score for one in found[0]] == [0, 1, None]


def test_it_is_another_process_that_judges(processes_end: None) -> None:
    with judged_apart(OpenedJudge(scores_its_process, {"judge": "exact", "judge model": None})) as apart:
        first, second = apart.judge([PICTURE] * 2, ["a", "b"])
        assert first is not None
        assert first.score in [child.pid for child in psutil.Process().children(recursive=True)]
        assert second is None


def test_judges_that_do_not_compute_in_python_stay_here() -> None:
    judge = OpenedJudge(scores_its_process, {"judge": "endpoint", "judge model": "some-model"})
    with judged_apart(judge) as apart:
        assert apart is judge


def test_an_error_of_the_judge_is_raised_here_and_ends_nothing(processes_end: None) -> None:
    with judged_apart(OpenedJudge(fails_at_noise, {"judge": "exact", "judge model": None})) as apart:
        with pytest.raises(ValueError, match="a prompt is noise"):
            apart.judge([PICTURE] * 2, ["star", "noise"])
        assert apart.judge([PICTURE], ["star"]) == [Judgement(1.0)]


def test_a_killed_process_is_an_error_that_says_so(processes_end: None) -> None:
    with judged_apart(OpenedJudge(scores_its_process, {"judge": "exact", "judge model": None})) as apart:
        first, _ = apart.judge([PICTURE] * 2, ["a", "b"])
        assert first is not None
        psutil.Process(int(first.score)).kill()
        with pytest.raises(JudgeError, match="the judge's process ended by SIGKILL"):
            apart.judge([PICTURE], ["a"])


@pytest.fixture
def processes_end() -> Iterator[None]:
    """Nothing that a test starts outlives it."""
    resource_tracker.ensure_running()  # processes that all others share
    forkserver.ensure_running()
    before = set(psutil.Process().children(recursive=True))
    yield
    assert not set(psutil.Process().children(recursive=True)) - before
