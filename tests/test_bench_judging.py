"""Pictures judged while others are drawn: judges that fail, and judgements that are kept."""

import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from bench.benchmarks.paircomp import PairComp
from bench.command import main
from bench.judging.judgements import JudgementError
from bench.report.paircomp_run import read_run
from pairs.judges.judge import Judgement
from pairs.judges.opening import OpenedJudge
from pairs.picture_file import read_metadata, write_png
from tests.coloured_generator import ColouredGenerator
from tests.ended import Ended
from tests.four_cases import CASES, cases_file, paircomp
from tests.locked_runs import run
from tests.scripted_judge import ScriptedJudge

__all__ = ["cases_file", "paircomp"]  # fixtures


def test_prompts_that_the_exact_judge_cannot_read_are_drawn_and_not_judged(
    command: Callable[..., Ended], small_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It reads captions of the procedural world only; asked to select among candidates, nothing is drawn."""
    file, run = tmp_path / "cases.json", tmp_path / "run"
    file.write_text(json.dumps([{"category": "Color difference", "caption1": "a red star", "caption2": "a red dog"}]))
    arguments = ("paircomp", "--prompts", file, "--model", small_folder, "--device", "cpu", "--out", run)
    ended = command(main, *arguments, "--best-of", 2)
    assert (ended.code, list((run / "images").iterdir())) == (2, [])
    assert "the exact judge cannot read 'a red dog'; name another with --selector" in ended.err
    shutil.rmtree(run)
    ended = command(main, *arguments)
    assert (ended.code, ended.out) == (0, f"4 pictures in {run / 'images'}, as the official evaluator reads them\n")
    assert "nothing is judged: the exact judge cannot read 'a red dog'; name another with --judge" in caplog.text
    assert len(list((run / "images").iterdir())) == 4


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


def test_equal_scores_of_the_first_100_pictures_end_judging_but_not_drawing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said at once, and an error at the end; when the judge is repaired, nothing is drawn again."""
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(CASES * 25))
    judge, said = ScriptedJudge(constant=0.0), r"red\.jsonl: all 10\d scores are 0, as of a broken judge"

    class Watching(ColouredGenerator):
        """Draws the last picture when the log has told of the judge."""

        def draw(self, parts):  # type: ignore[no-untyped-def]
            for number, drawn in enumerate(super().draw(parts), start=1):
                while number == len(parts) and not caplog.records:
                    time.sleep(0.001)
                yield drawn

    with pytest.raises(JudgementError, match=said):
        run(PairComp([file]), Watching(), judge.opened(), tmp_path / "run")
    assert re.search(said, caplog.text)
    assert 100 <= len(judge.judged) < 100 + 8
    assert len(list((tmp_path / "run" / "images").iterdir())) == 400
    (tmp_path / "run" / "judgements" / "red.jsonl").unlink()
    run(PairComp([file]), ColouredGenerator(after=0, stop=AssertionError()), ScriptedJudge().opened(), tmp_path / "run")


def test_the_exact_judge_may_find_nothing_in_the_first_100_pictures(tmp_path: Path) -> None:
    """Its scores of a weak model are often 0, in whole categories; but not in all."""
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(CASES * 25))
    identity = {"judge": "exact", "judge model": None}
    judge = ScriptedJudge(constant=0.0)
    with pytest.raises(JudgementError, match="all 400 scores are 0"):
        run(PairComp([file]), ColouredGenerator(), OpenedJudge(judge, identity), tmp_path / "run")


def test_a_picture_that_has_been_replaced_is_judged_anew(paircomp: PairComp, tmp_path: Path) -> None:
    """One that was drawn again with the same bytes is not."""
    judge = ScriptedJudge()
    run(paircomp, ColouredGenerator(), judge.opened(), tmp_path / "run")
    images = tmp_path / "run" / "images"
    judge.judged = []
    replaced, metadata = images / "1_0_1.png", read_metadata(images / "1_0_1.png")
    assert metadata is not None
    write_png(replaced, Image.new("RGB", (8, 8), (51, 0, 0)), metadata)
    (images / "2_1_0.png").unlink()
    run(paircomp, ColouredGenerator(), judge.opened(), tmp_path / "run")
    assert judge.judged == ["a red sign"]
    assert read_run(tmp_path / "run").judges[0].scores[1][1] == 0.2
    rows = [json.loads(line) for line in (tmp_path / "run" / "judgements" / "red.jsonl").read_text().splitlines()]
    (last,) = [row for row in rows[1:] if row["score"] == 0.2]
    assert last["sha256"] == hashlib.sha256(replaced.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "line 3 is no JSON object"),
        ("1", "line 3 is no JSON object"),
        ('{"file": 1, "sha256": "x", "score": 0.5}', "line 3: file: "),
        ('{"file": "0_0_0.png", "score": 0.5}', "line 3: sha256: "),
        ('{"file": "0_0_0.png", "sha256": "x", "score": true}', "line 3: score: "),
        ('{"file": "0_0_0.png", "sha256": "x", "score": NaN}', "line 3: score: "),
        ('{"file": "0_0_0.png", "sha256": "x", "score": 2}', "line 3: score: "),
    ],
)
def test_a_line_that_is_no_judgement_is_named(paircomp: PairComp, tmp_path: Path, line: str, said: str) -> None:
    run(paircomp, ColouredGenerator(), ScriptedJudge().opened(), tmp_path / "run")
    file = tmp_path / "run" / "judgements" / "red.jsonl"
    first, second, *others = file.read_text().splitlines()
    file.write_text("".join(one + "\n" for one in (first, second, line, *others[1:])))
    with pytest.raises(ValueError, match=rf"red\.jsonl, {said}"):
        run(paircomp, ColouredGenerator(), ScriptedJudge().opened(), tmp_path / "run")
    file.write_text("[]\n")
    with pytest.raises(ValueError, match=r"red\.jsonl, line 1 is no JSON object"):
        read_run(tmp_path / "run")


def test_a_judge_with_other_weights_does_not_continue_another_ones_scores(paircomp: PairComp, tmp_path: Path) -> None:
    run(paircomp, ColouredGenerator(), ScriptedJudge().opened(), tmp_path / "run")
    with pytest.raises(JudgementError, match=r"red\.jsonl is of another judge"):
        run(paircomp, ColouredGenerator(), ScriptedJudge().opened(weights="2"), tmp_path / "run")
