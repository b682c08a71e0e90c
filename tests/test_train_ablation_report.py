"""The ablation's report on made-up results, whose effects are known, and on the results that are kept."""

import csv
import json
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairs.judges.exact.exact_judge import ExactJudge
from pairs.miniature import miniature_cases
from tests.ended import Ended
from tests.tiles import tiles
from train.ablation.figures import draw_contrasts, draw_curves
from train.ablation.labels import read_labels
from train.ablation.report import Report
from train.ablation.results import Cost, Result
from train.ablation.study import Study
from train.command import main
from train.recipe import RECIPES

STUDY = Study.model_validate(tomllib.loads((RECIPES / "ablation.toml").read_text()))
KEPT = Path(__file__).parents[1] / "docs" / "ablation" / "results"
BLUE, RED = (0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28)
STYLE = np.array([case.category == "style" for case in miniature_cases("test")])


def result(arm: str, seed: int, level: float, *, style: float = 0.0) -> Result:
    """Every picture of the trained categories is judged `level`, plus noise of the case and a little of the seed."""
    cases = len(STYLE)
    noise = np.random.default_rng(7).normal(0, 0.05, cases) + np.random.default_rng(seed).normal(0, 0.005)
    level_by_case = np.where(STYLE, style, level + noise).clip(0, 1)
    own = np.repeat(level_by_case, 4).reshape(cases, 2, 2)
    scores = dict.fromkeys(("guidance 1", "guidance 2", "guidance 3", "served"), (own, own[:, 0, 0] > 0.5))
    diversity = dict.fromkeys(scores, 0.5)
    return Result("tiny-base", arm, seed, 1.0, "test", {}, Cost(7.0, 100), diversity, 0.5, 0.8, 0.03, {}, scores)


@pytest.fixture(scope="module")
def results() -> Mapping[str, Sequence[Result]]:
    levels = {"vanilla": 0.5, "sft": 0.5, "pair": 0.6, "pair_grpo": 0.45}
    made = {arm: [result(arm, seed, level, style=0.9) for seed in range(5)] for arm, level in levels.items()}
    return made | {"frozen": [result("frozen", 0, 0.3)], "factors": [result("factors", 0, 0.9)]}


def test_verdicts_follow_the_effects(results: Mapping[str, Sequence[Result]]) -> None:
    """The left-out category counts for nothing; the one run of the start stands for all seeds; one seed is too few."""
    found = {(one.after, one.before): one for one in Report(STUDY, results).contrasts()}
    assert found.keys() == {
        ("vanilla", "frozen"), ("vanilla", "sft"), ("pair", "vanilla"), ("pair_grpo", "vanilla")
    }  # fmt: skip
    verdicts = {names: one.verdict for names, one in found.items()}
    assert verdicts == {
        ("vanilla", "frozen"): "better",
        ("vanilla", "sft"): "not resolved",
        ("pair", "vanilla"): "better",
        ("pair_grpo", "vanilla"): "worse",
    }
    assert found["pair", "vanilla"].gain.value == pytest.approx(0.1, abs=1e-6)
    assert found["vanilla", "frozen"].gain.value == pytest.approx(0.2, abs=0.01)
    assert all(one.adjusted >= one.gain.p_value for one in found.values())


def test_tables_have_a_row_for_each_arm_and_contrast(results: Mapping[str, Sequence[Result]]) -> None:
    lines = list(Report(STUDY, results).lines())
    assert sum(line.startswith("| pair |") for line in lines) == 4
    (by_category,) = (line for line in lines if line.startswith("| sft | 0.") and "0.900" in line)
    assert by_category.split(" | ")[5] == "0.900 ± 0.000"  # of the left-out category
    assert by_category.split(" | ")[3] != by_category.split(" | ")[4]
    assert sum(line.startswith("| pair − vanilla | +0.100 |") for line in lines) == 1
    row = next(line for line in lines if line.startswith("| vanilla | GRPO"))
    assert row.split(" | ")[2] == "5"
    assert not any(line.startswith("| attention ") for line in lines)


def test_the_gain_of_s_a_is_of_the_same_runs_and_cases() -> None:
    """One arm draws one perfect picture of a pair's four, the other four mediocre ones: better by one mean, worse by the other."""
    uneven, even = result("vanilla", 0, 0.5), result("sft", 0, 0.5)
    uneven.scores["guidance 2"][0][:] = [[1.0, 0.0], [0.0, 0.0]]
    even.scores["guidance 2"][0][:] = 0.2
    (found,) = Report(
        STUDY, {"vanilla": [uneven, replace(uneven, seed=1)], "sft": [even, replace(even, seed=1)]}
    ).contrasts()
    assert (found.gain.value, found.arithmetic.value) == pytest.approx((-0.2, 0.05))


def test_figures_show_what_is_resolved(results: Mapping[str, Sequence[Result]], tmp_path: Path) -> None:
    """Blue is better, red is worse; what is not resolved has no colour."""

    def colours(number: int) -> set[tuple[int, ...] | float]:
        draw_contrasts(contrasts[number : number + 1], tmp_path / "one.png")
        with Image.open(tmp_path / "one.png") as picture:
            return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()} & {BLUE, RED}

    contrasts = Report(STUDY, results).contrasts()
    expected = {"better": {BLUE}, "worse": {RED}, "not resolved": set()}
    assert {one.verdict for one in contrasts} == expected.keys()
    for number, one in enumerate(contrasts):
        assert colours(number) == expected[one.verdict]


def test_a_band_shows_how_far_the_seeds_differ(tmp_path: Path) -> None:
    def coloured(spread: float) -> int:
        draw_curves(
            {"pair": np.array([[0.5], [0.5]]) + spread * np.array([[1.0], [-1.0]]) * np.ones(40)},
            "vanilla",
            tmp_path / "a.png",
        )
        with Image.open(tmp_path / "a.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        return int((pixels[..., 2] - pixels[..., 0] > 20).sum())

    assert coloured(0.1) > 3 * coloured(0.0) > 0


def test_the_results_that_are_kept_are_reported(command: Callable[..., Ended], tmp_path: Path) -> None:
    """The command prints a row of the start that agrees with its CSV file, and writes both plots."""
    ended = command(main, "ablation", "--out", tmp_path, "--results", KEPT, "--report")
    assert ended.code == 0
    with open(KEPT / "tiny-base" / "frozen" / "seed-0" / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["settings"] == "guidance 2"]
    pictures = np.array([[float(row[name]) for name in ("first_0", "first_1", "second_0", "second_1")] for row in rows])
    s_g = (np.exp(np.log(np.maximum(pictures, 1e-300)).mean(1)))[~STYLE].mean()
    assert f"| frozen | the start | 1 | {s_g:.3f} |" in ended.out
    assert ended.out.count("| vanilla − frozen |") == 1
    for name in ("contrasts.png", "curves.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 500


def test_the_labelled_pictures_are_those_that_were_judged() -> None:
    """Ten of every arm; the judge agrees with people on nearly all, as it does for the shipped models."""
    folder = KEPT.parent / "labelled" / "tiny-base"
    labels = read_labels(folder)
    judged = ExactJudge()(tiles(folder / "pictures.png", len(labels)), [label.prompt for label in labels])
    assert [one.score for one in judged if one is not None] == pytest.approx(
        [label.score for label in labels], abs=1e-4
    )
    assert Counter(label.arm for label in labels) == dict.fromkeys(STUDY.arms, 10)
    assert 40 <= sum(bool(label.shown) for label in labels) <= 120  # both labels occur
    assert sum(label.accepted == label.shown for label in labels) >= 0.95 * len(labels)


def test_the_gradients_that_are_kept_are_reported(command: Callable[..., Ended], tmp_path: Path) -> None:
    """A quality agrees with the file; those of other arms are left out, and a file without an arm is refused."""
    kept = KEPT.parent / "gradients" / "tiny-base" / "alignments.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    file = tmp_path / "gradients" / "tiny-base" / "alignments.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(kept.read_text())
    call = ("ablation", "--out", tmp_path, "--results", KEPT, "--gradients", len(rows))
    ended = command(main, *call, "--arms", "pair", "paper", "shuffled")

    def quality(arm: str) -> float:
        values = np.array([row[arm] for row in rows])
        return float(values[:, :-1].mean() / np.sqrt(values[:, -1].mean()))

    assert f"| pair | {quality('pair') / quality('vanilla'):.2f} |" in ended.out
    assert [line.split(" | ")[0] for line in ended.out.splitlines()[2:6]] == [
        "| vanilla",
        "| pair",
        "| paper",
        "| shuffled",
    ]
    assert "Spearman's), 3 arms" in ended.out
    file.write_text("".join(f"{json.dumps(row | {'other': row['pair']})}\n" for row in rows))
    assert "alignments.jsonl has gradients of other arms" in command(main, *call).err.splitlines()[-1]
