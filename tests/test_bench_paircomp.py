"""PairComp: scores by hand, the official format, and reports of one judge and of two."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.benchmarks.benchmark import BenchmarkError
from bench.benchmarks.paircomp import PairComp
from bench.command import main
from bench.judging.score_file import read_scores, write_scores
from bench.measurements.measurement import Measurement
from bench.pictures.best_of import BestOf
from bench.pictures.errors import RunError
from bench.report.agreement import agreement
from bench.report.page import write_page
from bench.report.paircomp_run import read_run
from bench.report.paircomp_scores import paircomp_scores
from bench.report.paircomp_text import lines
from pairs import miniature
from pairs.paircomp import Case, read_cases
from tests.coloured_generator import ColouredGenerator, colour
from tests.ended import Ended
from tests.four_cases import cases_file, paircomp
from tests.locked_runs import run
from tests.scripted_judge import ScriptedJudge
from tests.vlm_endpoint import VlmEndpoint

__all__ = ["cases_file", "paircomp"]  # fixtures


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


def test_the_agreement_of_judges_is_computed_once_for_text_and_page(
    paircomp: PairComp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for judge in (ScriptedJudge().opened(), ScriptedJudge(inverted=True).opened("pale")):
        run(paircomp, ColouredGenerator(), judge, tmp_path / "run")
    computed: list[object] = []

    def counted(*given: Any) -> dict[str, Any]:
        computed.append(given)
        return agreement(*given)

    monkeypatch.setattr("bench.report.paircomp_run.agreement", counted)
    found = read_run(tmp_path / "run")
    text = "\n".join(lines(found))
    write_page(tmp_path / "report.html", found)
    assert "Kendall's tau of pale and red" in text
    assert "Color                   -1.00" in text
    assert "-1.00" in (tmp_path / "report.html").read_text()
    assert len(computed) == 1


def test_two_judges_of_one_run_and_a_real_endpoint(
    command: Callable[..., Ended], endpoint: VlmEndpoint, tmp_path: Path
) -> None:
    """The second judge draws nothing again; tables of both, their agreement, and numbers in the common schema."""
    few = tmp_path / "few.json"
    few.write_text(json.dumps(json.loads(miniature.cases_file("validation").read_text())[::10]))
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
    found = Measurement.read(tmp_path / "run" / "numbers" / "exact.json")
    assert found.workload["generator"]["model"] == "tiny-base"
    assert {"s_a Average", "s_g counting", "passed All cases"} <= {number.name for number in found.numbers}
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
