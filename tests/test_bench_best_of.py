"""The best of several pictures."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from bench.benchmarks.paircomp import PairComp
from bench.command import main
from bench.pictures.best_of import SEED_STEP, BestOf
from bench.pictures.codes import unpack_codes
from bench.pictures.errors import GenerationError
from bench.pictures.picture import Part, Picture
from bench.report.paircomp_run import read_run
from model.checkpoints.load import load
from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from pairs.judges.exact.exact_judge import ExactJudge
from pairs.judges.judge import Judgement
from pairs.judges.opening import OpenedJudge
from pairs.picture_file import read_metadata
from tests.coloured_generator import ColouredGenerator, colour
from tests.ended import Ended
from tests.locked_runs import draw_run
from tests.scripted_judge import ScriptedJudge
from tests.vlm_endpoint import VlmEndpoint

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


def test_a_selector_at_an_endpoint_has_its_own_key_and_shares_the_judges_answers(
    command: Callable[..., Ended], endpoint: VlmEndpoint, small_folder: Path, tmp_path: Path
) -> None:
    """Every candidate is asked about once; the judge of the kept ones asks nothing, nor does a call that draws anew."""
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps([{"category": "c", "caption1": "a red star", "caption2": "a blue star"}]))
    arguments = ["paircomp", "--prompts", cases, "--model", small_folder, "--device", "cpu", "--out", tmp_path / "run"]
    arguments += [
        "--best-of",
        "3",
        "--selector",
        endpoint.url,
        "--selector-model",
        "vlm",
        "--selector-key",
        "sk-choose",
    ]
    judge = ("--judge", endpoint.url, "--judge-model", "vlm", "--judge-key", "sk-judge")
    ended = command(main, *arguments, *judge)
    assert ended.code == 0, ended.err
    assert endpoint.questions.total() == 4 * 3
    assert endpoint.keys == {"sk-choose"}
    (tmp_path / "run" / "images" / "0_0_1.png").unlink()
    ended = command(main, *arguments, *judge)
    assert ended.code == 0, ended.err
    assert endpoint.questions.total() == 4 * 3
    assert [one for one in (tmp_path / "run").rglob("*") if one.is_file() and b"sk-choose" in one.read_bytes()] == []


def test_the_best_candidate_of_the_miniature_is_kept(command: Callable[..., Ended], tmp_path: Path) -> None:
    """The one that the exact judge scores highest of all that the reference loop draws; the table names their number."""
    prompts = ("three red stars", "five red stars")
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps([{"category": "counting", "caption1": prompts[0], "caption2": prompts[1]}]))
    arguments = ("--prompts", cases, "--model", "tiny-base", "--device", "cpu", "--best-of", "3")
    ended = command(main, "paircomp", *arguments, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    janus, kept, levels = load("tiny-base", device="cpu"), [], []
    for number, prompt in enumerate(prompts):
        for image in (0, 1):
            seeds = [image + k * SEED_STEP for k in range(3)]
            codes = generate(janus, [prompt] * 3, seeds=seeds)
            pictures = [Image.fromarray(picture) for picture in ImageTokenizer(janus).images(codes).numpy()]
            scores = [one.score if one else -1.0 for one in ExactJudge()(pictures, [prompt] * 3)]
            best = scores.index(max(scores))
            metadata = read_metadata(tmp_path / "run" / "images" / f"0_{number}_{image}.png")
            assert metadata is not None
            assert metadata["drawn seeds"] == [seeds[best]]
            assert unpack_codes(metadata["codes"][0]).tolist() == codes[best].tolist()
            kept.append(best)
            levels.append(scores[best])
    assert set(kept) == {0, 1, 2}
    assert read_run(tmp_path / "run").judges[0].scores[0] == tuple(levels)
    printed = command(main, "table", tmp_path / "run").out
    assert "top_p 0.9, best of 3 |" in printed
