"""The ablation: arms are recipes, what is finished is kept and not repeated, and gradients are compared fairly."""

import json
import shutil
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoints.load import load
from model.generate import generate
from pairs.judges.exact.exact_judge import ExactJudge
from pairs.miniature import miniature_cases
from pairs.paircomp import Case
from serve.engine.engine import Engine
from tests.ended import Ended
from tests.tiles import tiles
from train.ablation import run as run_module
from train.ablation.ablation import Ablation
from train.ablation.gradients import Alignments, Gradients, part_of, read_alignments
from train.ablation.results import read_result
from train.ablation.run import SETTINGS, Run, perform
from train.ablation.scores import score_cases
from train.ablation.sheet import arms_sheet
from train.ablation.study import Study, load_study, merged
from train.command import main
from train.errors import TrainingError
from train.grpo.recipe import GRPORecipe
from train.recipe import RECIPES, RecipeError

SHIPPED = tomllib.loads((RECIPES / "ablation.toml").read_text())


def study(**changes: object) -> Study:
    return Study.model_validate(merged(SHIPPED, changes))


def test_an_arm_differs_from_vanilla_in_what_it_says_alone() -> None:
    shipped = load_study("ablation")
    vanilla = shipped.recipe("vanilla", seed=3, factor=1.0)
    assert vanilla is not None
    for name, arm in shipped.arms.items():
        recipe = shipped.recipe(name, seed=3, factor=1.0)
        if isinstance(recipe, GRPORecipe):
            differing = {
                field for field in GRPORecipe.model_fields if getattr(recipe, field) != getattr(vanilla, field)
            }
            assert differing == arm.change.keys()
    pair_grpo = shipped.recipe("pair_grpo", seed=3, factor=2.5)
    assert isinstance(pair_grpo, GRPORecipe)
    assert [point.value for point in pair_grpo.update.learning_rate] == pytest.approx([0, 7.5e-4, 7.5e-5])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arms": {"pair": {"change": {"advantage": {"scope": "both"}}}}}, "arms.pair: advantage.scope"),
        ({"tuning": {"seed": 2}}, "tuning.seed 2 is one of the seeds"),
        ({"contrasts": {"main": [["pair", "none"]]}}, "contrasts.main: there is no arm 'none'"),
    ],
)
def test_a_wrong_study_is_refused(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        study(**changes)


def test_unknown_names_are_refused(tmp_path: Path, command: Callable[..., Ended]) -> None:
    for option, value in (("--arms", "best"), ("--seeds", "77"), ("--start", "small")):
        ended = command(main, "ablation", "--out", tmp_path, option, value)
        assert ended.code == 2
        assert f"{option}: no {value if option == '--seeds' else repr(value)}; there are" in ended.err.splitlines()[-1]


def test_cases_are_scored_as_the_judge_scores_the_reference_loops_pictures() -> None:
    """For their own prompt and for the other one."""
    janus, cases, params = load("tiny", device="cpu"), miniature_cases("validation")[::40], SETTINGS["guidance 2"]
    scores = score_cases(engine := Engine(janus, slots=6), cases, params)
    prompts = [prompt for case in cases for prompt in case.prompts for _ in range(2)]
    codes = generate(
        janus,
        prompts,
        seeds=[0, 1] * (2 * len(cases)),
        guidance_scale=params.guidance_scale,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
    )
    assert np.array_equal(scores.codes.reshape(len(prompts), -1), codes)
    pictures = [Image.fromarray(pixels.numpy()) for pixels in engine.image_tokenizer.images(codes)]
    others = [prompt for case in cases for prompt in reversed(case.prompts) for _ in range(2)]
    for found, texts in ((scores.own, prompts), (scores.other, others)):
        judged = [one.score for one in ExactJudge()(pictures, texts) if one is not None]
        assert found.flatten().tolist() == pytest.approx(judged)
    assert scores.own.mean() > scores.other.mean() + 0.3


@pytest.fixture
def short(small_folder: Path) -> Study:
    """A study of four steps at most, from the small model, on three cases."""
    return study(
        seeds=[0, 1],
        starts={str(small_folder): 0.5},
        tuning={"factors": [2.0, 200.0]},
        grpo={"steps": 2, "rollout": {"pairs": 1, "samples": 2}, "output": {"save_every": 1}},
        sft={"steps": 3, "batch_size": 4, "warmup": 1},
    )


def few(case_set: object) -> Sequence[Case]:
    return miniature_cases("validation")[::50]


def perform_on_few_cases(study: Study, run: Run, out: Path, results: Path) -> None:
    with patch.object(run_module, "miniature_cases", few):
        perform(study, run, out, results)


def test_runs_are_kept_resumed_and_not_repeated(
    short: Study, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials choose the rate; a result that is there is not made again, and one of another recipe is refused."""
    monkeypatch.setattr(run_module, "miniature_cases", few)
    performed: list[str] = []

    def here(self: Ablation, runs: Sequence[Run], jobs: int) -> object:
        """Without processes, which would not know of the few cases."""
        for run in runs:
            if self.result(run) is None:
                perform(self.study, run, self.out, self.results)
                performed.append(str(run.key.relative_to(small_folder.name)))
                yield run, read_result(self.results / run.key)

    monkeypatch.setattr(Ablation, "_perform", here)
    # the small model's pictures are all judged 0, so that the rewards would stop every run of GRPO
    arms = ("frozen", "sft")
    made = Ablation(short, str(small_folder), arms, (0, 1), tmp_path, tmp_path / "results")
    results = dict(made.perform(jobs=1))
    assert performed == ["sft/rate-1", "sft/rate-100", "frozen/seed-0", "sft/seed-0", "sft/seed-1"]
    assert dict(made.perform(jobs=1)) == {}
    trials, runs = ([run for run in results if run.case_set == case_set] for case_set in ("validation", "test"))
    assert [run.factor for run in trials] == [1.0, 100.0]  # twice the start's factor, and 200 times
    best = max(trials, key=lambda run: results[run].s_g("guidance 2").mean())
    assert {run.factor for run in runs if run.arm == "sft"} == {best.factor}
    by_key = {str(run.key.relative_to(small_folder.name)): result for run, result in results.items()}
    frozen, trained = by_key["frozen/seed-0"], by_key["sft/seed-0"]
    assert frozen.drift == pytest.approx(0, abs=1e-6)
    assert trained.drift > 1e-3
    assert trained.given_prompt < frozen.given_prompt
    assert list(trained.scores) == ["guidance 1", "guidance 2", "guidance 3", "served"]
    assert (trained.cost.updates, trained.cost.pictures, trained.cost.judge_calls) == (3, 12, 0)
    assert 0 < trained.cost.core_minutes < 5
    sheets = [np.asarray(arms_sheet(replace(made, arms=chosen), 1)) for chosen in (arms, ("sft",))]
    width = (2 * 154, 4)  # of an arm's two pictures, and of the gap behind them
    assert sheets[0].shape[:2] == (12 * (2 * 26 + 154) - 4, 2 * width[0] - width[1])
    assert np.array_equal(sheets[0][52:202, width[0] :], sheets[1][52:202])  # each arm has its own weights
    assert not np.array_equal(sheets[0][52:202, : -width[0]], sheets[1][52:202])
    with pytest.raises(RecipeError, match="run sft with seed 7 first"):
        arms_sheet(made, 7)
    weights = Path(made.checkpoint("sft", 1), "model.safetensors")
    before = weights.read_bytes()
    shutil.rmtree(weights.parents[2] / "seed-1")
    made.train(1, jobs=1)  # what is not there is trained again
    assert weights.read_bytes() == before
    other = short.model_copy(update={"sft": short.sft | {"drop_prompt": 0.5}})
    with pytest.raises(RecipeError, match="holds a result of another recipe"):
        list(Ablation(other, str(small_folder), arms, (0,), tmp_path, tmp_path / "results").perform(jobs=1))
    damaged = tmp_path / "results" / small_folder.name / "sft" / "seed-1" / "run.json"
    damaged.write_text(damaged.read_text()[:50])
    with pytest.raises(RecipeError, match="seed-1 holds no readable result"):
        list(made.perform(jobs=1))


@pytest.mark.long
def test_a_run_that_fails_does_not_keep_the_others_from_being_done(
    short: Study, small_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small model's pictures are all judged 0, which stops every run of GRPO."""
    monkeypatch.setattr("train.ablation.ablation.perform", perform_on_few_cases)
    made = Ablation(short, str(small_folder), ("vanilla", "sft"), (0,), tmp_path, tmp_path / "results")
    performing = made.perform(jobs=2)
    assert [next(performing)[0].arm for _ in range(2)] == ["sft", "sft"]
    with pytest.raises(TrainingError, match=r"2 runs failed, first .*vanilla/rate-.*: stopped at step 1: all"):
        next(performing)
    assert caplog.text.count("vanilla/rate-") >= 2


def test_pictures_to_be_labelled_are_those_that_were_judged(tmp_path: Path, command: Callable[..., Ended]) -> None:
    """A table counts labels, once every picture has one."""
    call = ("ablation", "--out", tmp_path, "--arms", "frozen", "--labels", "12")
    assert "12 pictures to be labelled" in command(main, *call).out
    folder = tmp_path / "labelled" / "tiny-base"
    labels = json.loads((folder / "labels.json").read_text())
    unlabelled = command(main, *call)
    assert unlabelled.code == 2
    assert f"{labels[0]['prompt']!r} (row 1, column 1 of pictures.png) must be true or false" in unlabelled.err
    judged = ExactJudge()(tiles(folder / "pictures.png", len(labels)), [label["prompt"] for label in labels])
    scores = [label["score"] for label in labels]
    assert [one.score for one in judged if one is not None] == pytest.approx(scores, abs=1e-4)
    assert min(scores) < 0.5 < max(scores)
    accepted = sum(score >= 0.5 for score in scores)
    for label in labels:  # whoever looks disagrees about the last one alone
        label["shown"] = label["score"] >= 0.5
    labels[-1]["shown"] ^= True
    (folder / "labels.json").write_text(json.dumps(labels))
    refused, doubtful = 12 - accepted, int(scores[-1] >= 0.5)
    labelled = command(main, *call)
    row = f"12 | {accepted} | {accepted - doubtful} | {refused} | {1 - doubtful} |"
    assert labelled.out.splitlines()[2:4] == [f"| frozen | {row}", f"| all | {row}"]
    assert labelled.out.count(": judged ") == 1


def test_gradients_are_those_of_the_arms_and_a_killed_call_goes_on(tmp_path: Path) -> None:
    """On the pairs it was estimated on, the mean of the plain estimator's own products is the true gradient's square."""
    plain = {"about": "", "change": {"advantage": {"normalise": "none"}}}
    made = study(
        arms={"plain": plain},
        contrasts={"main": [], "switches": []},
        grpo={"rollout": {"pairs": 1, "samples": 3}},
    )
    kept = {name: made.arms[name] for name in ("frozen", "plain", "pair_grpo", "guidance_3")}
    made = made.model_copy(update={"arms": kept})
    gradients = Gradients(made, "tiny-base", tmp_path)

    def compared(pairs: int) -> dict[str, Alignments]:
        gradients.compute(true_pairs=8, pairs=pairs)
        return read_alignments(made, tmp_path, pairs)

    samples = gradients._samples("score", 503)  # beyond the study's steps, where p has fallen to 0
    positives = part_of(samples, made.variant({"ground_truth": {"use": "positive", "group": "fixed"}}, seed=0))
    assert positives.places.picture.tolist() == [-1, -1, -1, -1, 0, 1]
    assert positives.rewards.tolist() == samples.rewards[[0, 1, 3, 4, 6, 9]].tolist()
    found = compared(1)
    assert found.keys() == {"plain", "pair_grpo"}
    more = compared(2)
    assert np.array_equal(more["plain"].products[:1], found["plain"].products)
    lines = (tmp_path / "alignments.jsonl").read_text()
    (tmp_path / "alignments.jsonl").write_text(lines[:-20])  # a line that a kill cut short
    assert np.array_equal(compared(2)["plain"].products, more["plain"].products)
    true = torch.stack([gradients._true_gradient(number, 1) for number in range(8)]).double()
    gradients._recipes = {"plain": gradients._recipes["plain"]}
    own = [gradients._alignments(number, true)["plain"] for number in range(8)]
    assert np.mean([row[:8] for row in own]) == pytest.approx(float(true.mean(0).square().sum()), rel=1e-4)
    gradients.close()
