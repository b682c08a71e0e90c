"""PairComp: scores by hand, the official format, judges that fail, and judging beside drawing."""

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.benchmarks.benchmark import BenchmarkError
from bench.benchmarks.paircomp import PairComp
from bench.command import main
from bench.judging.judgements import JudgementError
from bench.judging.paircomp import run
from bench.judging.score_file import read_scores, write_scores
from bench.pictures.best_of import BestOf
from bench.pictures.run_folder import RunError
from bench.report.agreement import agreement
from bench.report.paircomp_run import read_run
from bench.report.paircomp_scores import paircomp_scores
from bench.report.paircomp_text import lines
from bench.results import read_numbers
from pairs.judges.judge import Judgement
from pairs.judges.opening import OpenedJudge
from pairs.miniature import cases_file
from pairs.paircomp import Case, read_cases
from tests.coloured_generator import ColouredGenerator, colour
from tests.ended import Ended
from tests.scripted_judge import ScriptedJudge
from tests.vlm_endpoint import VlmEndpoint

CASES = [
    {"category": "Color difference", "caption1": "a red star", "caption2": "a blue star"},
    {"category": "Text difference", "caption1": "a red sign", "caption2": "a blue sign"},
    {"category": "Color difference", "caption1": "a green heart", "caption2": "a pink heart"},
    {"category": "Color difference", "caption1": "a green star", "caption2": "a pink star"},
]


@pytest.fixture
def paircomp(tmp_path: Path) -> PairComp:
    file = tmp_path / "PairComp.json"
    file.write_text(json.dumps(CASES))
    return PairComp([file])


def scores_of(cases: Sequence[Case], *rows: Sequence[float]) -> dict[int, Sequence[float]]:
    return {case.number: row for case, row in zip(cases, rows, strict=True)}


def test_scores_are_those_computed_by_hand(paircomp: PairComp) -> None:
    """The average weighs subtasks equally, the score over all cases weighs cases equally."""
    scores = scores_of(paircomp.cases, (0.25, 1, 1, 1), (0.6, 0.6, 0.6, 0.6), (0, 1, 1, 1), (0.0625, 0.0625, 1, 1))
    found = paircomp_scores(paircomp.cases, scores)
    color, text = found.subtasks
    assert (color.name, color.cases, text.name, text.cases) == ("Color", 3, "Text", 1)
    s_a = (3.25 / 4 + 0.75 + 2.125 / 4) / 3
    s_g = (math.sqrt(0.5) + 0 + 0.25) / 3
    assert color.measures["s_a"].value == pytest.approx(s_a)
    assert color.measures["s_g"].value == pytest.approx(s_g)
    assert text.measures["s_g"].value == pytest.approx(0.6)
    assert (color.measures["passed"].value, text.measures["passed"].value) == (0, 1)
    assert found.average.measures["s_a"].value == pytest.approx((s_a + 0.6) / 2)
    assert found.weighted.measures["s_g"].value == pytest.approx((3 * s_g + 0.6) / 4)


def test_intervals_are_those_of_a_mean_over_cases() -> None:
    """With many cases the bootstrap's interval is the normal one; subtasks are resampled one by one."""
    rng = np.random.default_rng(1)
    cases = [Case(i, "a" if i < 300 else "b", ("x", "y")) for i in range(500)]
    values = rng.random(500)
    found = paircomp_scores(cases, {i: (value,) * 4 for i, value in enumerate(values)})
    errors = [part.std(ddof=1) / math.sqrt(len(part)) for part in (values[:300], values[300:])]
    for group, error in zip(found.subtasks, errors, strict=True):
        one = group.measures["s_a"]
        assert (one.high - one.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    average = found.average.measures["s_a"]
    assert (average.high - average.low) / 2 == pytest.approx(1.96 * math.hypot(*errors) / 2, rel=0.1)


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=4, max_size=4))
def test_s_g_is_at_most_s_a(rows: list[list[float]]) -> None:
    cases = [Case(i, "a", ("x", "y")) for i in range(4)]
    measures = paircomp_scores(cases, dict(enumerate(rows))).average.measures
    assert measures["s_g"].value <= measures["s_a"].value + 1e-12
    assert measures["s_g"].low <= measures["s_g"].high


def test_a_run_is_judged_and_reported(paircomp: PairComp, tmp_path: Path) -> None:
    run(paircomp, ColouredGenerator(), ScriptedJudge().opened(), tmp_path / "run")
    found = read_run(tmp_path / "run")
    assert found.name == "colours"
    expected = [colour(p.prompt, p.seeds[0])[0] / 255 for p in paircomp.pictures]
    assert [score for judge in found.judges for own in judge.scores.values() for score in own] == expected
    text = "\n".join(lines(found))
    assert "colours, judge red" in text
    assert "warning" not in text


def test_the_official_format_is_written_and_read(paircomp: PairComp, tmp_path: Path) -> None:
    scores = {picture.file: number / 20 for number, picture in enumerate(paircomp.pictures)}
    write_scores(tmp_path / "score.json", paircomp.cases, scores)
    content = json.loads((tmp_path / "score.json").read_text())
    assert list(content) == ["0", "1", "2", "3"]
    assert content["1"][2] == {"pair_idx": 1, "prompt_idx": 1, "image_idx": 0, "score": 6 / 20}
    assert read_scores(tmp_path / "score.json", paircomp.cases)[1] == (4 / 20, 5 / 20, 6 / 20, 7 / 20)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda content: content.update({"4": content["0"]}), "case '4' is none of the benchmark's 4"),
        (lambda content: content["2"].pop(), "case 2 must have one score for each of its four pictures"),
        (lambda content: content["2"].append(content["2"][0]), "case 2 must have one score"),
        (lambda content: content["2"][0].update(pair_idx=3), "case 2 must have one score"),
        (lambda content: content["2"][0].update(score=1.5), r"2\.0\.score: Input should be less than or equal to 1"),
        (lambda content: content["2"][0].update(score=float("nan")), r"2\.0\.score"),
        (lambda content: content["2"][0].pop("score"), r"2\.0\.score: Field required"),
    ],
)
def test_a_bad_score_file_is_named_with_the_case(
    paircomp: PairComp, tmp_path: Path, harm: Callable[[dict[str, list[dict[str, float]]]], object], said: str
) -> None:
    file = tmp_path / "score.json"
    write_scores(file, paircomp.cases, {picture.file: 0.5 for picture in paircomp.pictures})
    content = json.loads(file.read_text())
    harm(content)
    file.write_text(json.dumps(content))
    with pytest.raises(BenchmarkError, match=r"score\.json: .*" + said):
        read_scores(file, paircomp.cases)


def test_a_failed_judgement_is_missing_and_asked_for_again(paircomp: PairComp, tmp_path: Path) -> None:
    """Never 0: its case is left out, counted and named, until the judge answers."""
    judge = ScriptedJudge()
    judge.fails = {"a pink heart"}
    run(paircomp, ColouredGenerator(), judge.opened(), tmp_path / "run")
    found = read_run(tmp_path / "run")
    assert found.judges[0].table.subtasks[0].missing == 1
    assert found.warnings == ["red: 1 cases lack a judgement and are left out: 2"]
    assert 2 not in found.judges[0].scores
    assert len(judge.judged) == 16
    judge.fails, judge.judged = set(), []
    run(paircomp, ColouredGenerator(after=0, stop=AssertionError()), judge.opened(), tmp_path / "run")
    assert judge.judged == ["a pink heart"] * 2
    assert read_run(tmp_path / "run").warnings == []


def test_a_judge_that_breaks_ends_the_run_which_goes_on_later(paircomp: PairComp, tmp_path: Path) -> None:
    judge = ScriptedJudge()

    def broken(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        if len(judge.judged) >= 5:
            raise OSError("the judge's disk is full")
        return judge(images, prompts)

    opened = judge.opened()
    with pytest.raises(OSError, match="disk is full"):
        run(paircomp, ColouredGenerator(), OpenedJudge(broken, opened.identity, at_once=5), tmp_path / "run")
    assert len(list((tmp_path / "run" / "images").iterdir())) == 16
    done = len(judge.judged)
    run(paircomp, ColouredGenerator(after=0, stop=AssertionError()), opened, tmp_path / "run")
    assert done < len(judge.judged) == 16


def test_pictures_are_judged_while_others_are_drawn(paircomp: PairComp, tmp_path: Path) -> None:
    """The generator's last picture waits until the judge has seen the first one."""
    judge, seen = ScriptedJudge(), threading.Event()

    class Waiting(ColouredGenerator):
        def draw(self, parts):  # type: ignore[no-untyped-def]
            for number, drawn in enumerate(super().draw(parts), start=1):
                if number == len(parts):
                    assert seen.wait(60)
                yield drawn

    def watched(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        seen.set()
        return judge(images, prompts)

    run(paircomp, Waiting(), OpenedJudge(watched, judge.opened().identity), tmp_path / "run")
    assert len(judge.judged) == 16


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_threads_that_draw_go_before_the_judge(paircomp: PairComp, tmp_path: Path) -> None:
    judge, priorities = ScriptedJudge(), set()

    def watched(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        priorities.add(os.getpriority(os.PRIO_PROCESS, 0))  # the calling thread's nice value
        return judge(images, prompts)

    ours = os.getpriority(os.PRIO_PROCESS, 0)
    run(paircomp, ColouredGenerator(), OpenedJudge(watched, judge.opened().identity), tmp_path / "run")
    assert priorities == {min(ours + 10, 19)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == ours


def test_equal_scores_of_many_pictures_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(CASES * 25))
    with pytest.raises(JudgementError, match=r"red\.jsonl: all 400 scores are 0, as of a broken judge"):
        run(PairComp([file]), ColouredGenerator(), ScriptedJudge(constant=0.0).opened(), tmp_path / "run")


def test_a_judge_with_other_weights_does_not_continue_another_ones_scores(paircomp: PairComp, tmp_path: Path) -> None:
    run(paircomp, ColouredGenerator(), ScriptedJudge().opened(), tmp_path / "run")
    with pytest.raises(JudgementError, match=r"red\.jsonl is of another judge"):
        run(paircomp, ColouredGenerator(), ScriptedJudge().opened(weights="2"), tmp_path / "run")


def test_the_judge_that_gave_the_rewards_is_named(paircomp: PairComp, tmp_path: Path) -> None:
    judges = [ScriptedJudge().opened(name) for name in ("red", "other")]

    class Trained(ColouredGenerator):
        @property
        def settings(self):  # type: ignore[no-untyped-def]
            return {**super().settings, "reward judge": judges[0].identity}

    for judge in judges:
        run(paircomp, Trained(), judge, tmp_path / "run")
    assert read_run(tmp_path / "run").warnings == ["red gave the rewards that this checkpoint was trained with"]


def test_agreement_of_judges_is_kendalls_tau() -> None:
    cases = [Case(i, "a" if i < 30 else "b", ("x", "y")) for i in range(60)]
    rng = np.random.default_rng(0)
    first = {i: tuple(rng.random(4)) for i in range(60)}
    second = {i: tuple(score**3 if i < 30 else -score for score in own) for i, own in first.items()}
    found = agreement(cases, first, second)
    assert found["a"] is not None
    assert found["b"] is not None
    assert (found["a"].value, found["b"].value) == pytest.approx((1, -1))  # monotonic functions
    unrelated = {i: tuple(rng.random(4)) for i in range(60)}
    tau = agreement(cases, first, unrelated)["a"]
    assert tau is not None
    assert tau.low < 0 < tau.high
    assert agreement(cases, first, {0: (0.5,) * 4})["a"] is None
    assert agreement(cases, first, dict.fromkeys(range(60), (0.5,) * 4))["a"] is None


def test_two_judges_of_one_run_and_a_real_endpoint(
    command: Callable[..., Ended], endpoint: VlmEndpoint, tmp_path: Path
) -> None:
    """The second judge draws nothing again; tables of both, their agreement, and numbers in the common schema."""
    few = tmp_path / "few.json"
    few.write_text(json.dumps(json.loads(cases_file("validation").read_text())[::10]))
    model = ("--model", "tiny-base", "--device", "cpu")
    arguments = ("paircomp", "--prompts", few, "--out", tmp_path / "run", *model)
    first = command(main, *arguments)
    assert first.code == 0, first.err
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "images").iterdir()}
    assert len(written) == 4 * 12
    second = command(main, *arguments, "--judge", endpoint.url, "--judge-model", "vlm/red")
    assert second.code == 0, second.err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "images").iterdir()} == written
    assert "tiny-base, judge exact" in second.out
    assert "tiny-base, judge vlm-red" in second.out
    assert "Kendall's tau of exact and vlm-red" in second.out
    about, numbers = read_numbers(tmp_path / "run" / "numbers" / "exact.json")
    assert about["workload"]["generator"]["model"] == "tiny-base"
    assert {"s_a Average", "s_g counting", "passed All cases"} <= {number.name for number in numbers}
    assert (tmp_path / "run" / "report.html").exists()


def test_a_fresh_run_is_judged_at_an_endpoint_whose_key_is_kept_out_of_its_files(
    command: Callable[..., Ended], endpoint: VlmEndpoint, paircomp: PairComp, tmp_path: Path, small_folder: Path
) -> None:
    judge = ("--judge", endpoint.url, "--judge-model", "vlm", "--judge-key", "sk-secret")
    arguments = ("paircomp", "--prompts", paircomp.prompt_files[0], "--model", small_folder, "--device", "cpu", *judge)
    ended = command(main, *arguments, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if b"sk-secret" in path.read_bytes()] == []
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    refused = command(main, *arguments, "--out", tmp_path / "thesis")
    assert refused.code == 2
    assert "is not empty and is not a run" in refused.err
    assert [path.name for path in (tmp_path / "thesis").rglob("*")] == ["thesis.tex"]


def test_a_judge_that_also_chose_the_pictures_is_named(paircomp: PairComp, tmp_path: Path) -> None:
    judge = ScriptedJudge().opened()
    run(paircomp, BestOf(ColouredGenerator(), judge, 2), judge, tmp_path / "run")
    assert read_run(tmp_path / "run").warnings == ["red also chose these pictures, the best of 2 each"]


def test_a_run_that_is_not_of_paircomp_or_not_judged_is_refused(paircomp: PairComp, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"manifest\.json: No such file"):
        read_run(tmp_path / "nothing")
    run(paircomp, ColouredGenerator(), ScriptedJudge().opened(), tmp_path / "run")
    (tmp_path / "run" / "scores" / "red.json").unlink()
    with pytest.raises(BenchmarkError, match="has no scores"):
        read_run(tmp_path / "run")


def test_the_real_paircomp_has_2200_pictures() -> None:
    """With the authors' file, which is not shipped; its path is in FOCUSDIFF_PAIRCOMP."""
    path = os.environ.get("FOCUSDIFF_PAIRCOMP")
    if path is None:
        pytest.skip("PairComp.json is not shipped; FOCUSDIFF_PAIRCOMP may name the file")
    benchmark = PairComp([Path(path)])
    assert len(benchmark.pictures) == 2200
    assert benchmark.pictures[-1].file == "549_1_1.png"
    categories = [case.category for case in read_cases(Path(path))]
    counts = {category: categories.count(category) for category in dict.fromkeys(categories)}
    assert list(counts.values()) == [250, 50, 50, 50, 100, 50]
