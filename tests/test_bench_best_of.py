"""The best of several pictures."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from bench.benchmarks.paircomp import PairComp
from bench.command import main
from bench.pictures.best_of import SEED_STEP, BestOf
from bench.pictures.errors import GenerationError
from bench.pictures.picture import Part, Picture
from pairs.judges.judge import Judgement
from pairs.judges.opening import OpenedJudge
from pairs.picture_file import read_metadata
from tests.coloured_generator import ColouredGenerator, colour
from tests.ended import Ended
from tests.locked_runs import draw_run
from tests.scripted_judge import ScriptedJudge

PICTURES = [Picture("a.png", "a red star", (3,)), Picture("b.png", "a blue star", (5, 6, 7, 8))]
PARTS = [Part(picture, number) for picture in PICTURES for number in range(len(picture.seeds))]


def reds(part: Part, count: int) -> dict[int, int]:
    """Red level by seed, of a part's candidates."""
    return {seed: colour(part.prompt, seed)[0] for seed in (part.seed + k * SEED_STEP for k in range(count))}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_candidate_with_the_highest_score_is_kept(count: int) -> None:
    found = {one.part: one for one in BestOf(ColouredGenerator(), ScriptedJudge().opened(), count).draw(PARTS)}
    assert found.keys() == set(PARTS)
    for part, one in found.items():
        levels = reds(part, count)
        assert one.seed == max(levels, key=levels.__getitem__)
        assert one.image.getpixel((0, 0)) == colour(part.prompt, one.seed)


def test_of_equal_candidates_the_first_seed_is_kept() -> None:
    (one,) = BestOf(ColouredGenerator(), ScriptedJudge(constant=0.5).opened(), 4).draw(PARTS[:1])
    assert one.seed == PARTS[0].seed


def test_a_candidate_without_a_judgement_is_not_kept() -> None:
    """Whatever its level is; without any judgement there is no choice."""

    def unsure(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        scored = ScriptedJudge()(images, prompts)
        best = max(range(len(images)), key=lambda i: scored[i].score if scored[i] else 0)  # type: ignore[union-attr]
        return [None if i == best else one for i, one in enumerate(scored)]

    judge = OpenedJudge(unsure, ScriptedJudge().opened().identity)
    (one,) = BestOf(ColouredGenerator(), judge, 3).draw(PARTS[:1])
    levels = reds(PARTS[0], 3)
    assert one.seed == sorted(levels, key=levels.__getitem__)[1]
    failing = ScriptedJudge()
    failing.fails = {"a red star"}
    with pytest.raises(GenerationError, match=r"a\.png: red scored none of its 3 candidates"):
        list(BestOf(ColouredGenerator(), failing.opened(), 3).draw(PARTS[:1]))


def test_a_run_tells_the_seed_that_was_kept_and_goes_on(tmp_path: Path) -> None:
    cases = tmp_path / "PairComp.json"
    cases.write_text(json.dumps([{"category": "c", "caption1": "a red star", "caption2": "a blue star"}]))
    benchmark = PairComp([cases])

    def best() -> BestOf:
        return BestOf(ColouredGenerator(), ScriptedJudge().opened(), 3)

    run = draw_run(benchmark, best(), tmp_path / "run")
    metadata = read_metadata(run.images / "0_1_1.png")
    assert metadata is not None
    levels = reds(Part(Picture("", "a blue star", (1,)), 0), 3)
    assert metadata["seeds"] == [1]
    assert metadata["drawn seeds"] == [max(levels, key=levels.__getitem__)]
    assert metadata["best of"] == 3
    (run.images / "0_1_1.png").unlink()
    draw_run(benchmark, best(), tmp_path / "run")
    assert read_metadata(run.images / "0_1_1.png") == metadata


def test_more_candidates_score_higher_on_the_miniature(command: Callable[..., Ended], tmp_path: Path) -> None:
    """Selected and judged by the exact judge; the table names the number of candidates."""
    cases = tmp_path / "cases.json"
    cases.write_text(
        json.dumps(
            [{"category": "counting difference", "caption1": "four red stars", "caption2": "five red stars"}] * 3
        )
    )
    arguments = ("paircomp", "--prompts", cases, "--model", "tiny-base", "--device", "cpu")
    for count in ("1", "4"):
        ended = command(main, *arguments, "--best-of", count, "--out", tmp_path / count)
        assert ended.code == 0, ended.err
    printed = command(main, "table", tmp_path / "1", tmp_path / "4").out
    rows = [line.split(" | ") for line in printed.splitlines() if "guidance_scale" in line]
    assert [row[1].endswith("best of 4") for row in rows] == [False, True]
    scores = [float(row[2].split(" ")[0]) for row in rows]
    assert scores[1] > scores[0]
