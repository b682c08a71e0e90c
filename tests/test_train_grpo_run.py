"""Runs of GRPO: checkpoints that are served, resumed bit by bit, and kept when training cannot go on."""

import json
import math
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import JanusForConditionalGeneration

from model.checkpoints.load import load
from model.errors import CheckpointError
from model.generate import generate
from pairs.judges.judge import Judge, Judgement
from pairs.judges.vlm.questions import Questions
from serve.backends.watch import newest_checkpoint
from serve.engine.engine import Engine
from tests.ended import Ended
from tests.forked_command import ForkedCommand
from tests.grpo_runs import Brightness, recipe, rows, trainer
from tests.killed_runs import main as killed_runs
from tests.vlm_endpoint import VlmEndpoint
from train.command import main
from train.errors import TrainingError
from train.grpo.rollout.plan import plan_pair
from train.grpo.sheets import credit_overlay


class Failing(Brightness):
    """Fails on every second picture of its first `good` calls, and on all pictures afterwards."""

    def __init__(self, good: int) -> None:
        self.good, self.calls = good, 0

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        self.calls += 1
        scores = super().__call__(images, prompts)
        return [score if self.calls <= self.good and i % 4 else None for i, score in enumerate(scores)]


class ConstantAtTimes(Brightness):
    """Gives every picture of some steps, which have 8 each, the same score."""

    def __init__(self, *steps: int, score: float = 0.0) -> None:
        self.steps, self.score, self.judged = steps, score, 0

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        step = self.judged // 8 + 1
        self.judged += len(images)
        return [Judgement(self.score) for _ in images] if step in self.steps else super().__call__(images, prompts)


class Constant:
    """A judge that is broken: every picture gets the same score."""

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        return [Judgement(0.25) for _ in images]


@pytest.fixture(scope="module")
def finished(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps."""
    out = tmp_path_factory.mktemp("finished") / "run"
    trainer(small_folder, out, recipe(output={"save_every": 1, "keep": 2, "grid_every": 2})).run()
    return out


def test_the_newest_checkpoints_are_kept_and_the_last_is_served(finished: Path, small_folder: Path) -> None:
    """Whatever follows the run finds it, plain transformers loads it, and it is another model than the first."""
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["run-000002", "run-000003"]
    assert (finished / "latest").resolve() == finished / "checkpoints" / "run-000003"
    assert newest_checkpoint(finished) == (finished / "latest").resolve()
    trained, first = load(finished / "latest", device="cpu"), load(small_folder, device="cpu")
    plain = JanusForConditionalGeneration.from_pretrained(finished / "latest", dtype=torch.float32)
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, trained.network.state_dict()[name])
    assert trained.sampling == first.sampling
    prompts = ["a red circle", "two blue stars"]
    assert not torch.equal(generate(trained, prompts, seeds=[1, 2]), generate(first, prompts, seeds=[1, 2]))


def test_only_what_draws_pictures_is_trained(finished: Path, small_folder: Path) -> None:
    trained, first = (load(folder, device="cpu").network.state_dict() for folder in (finished / "latest", small_folder))
    changed = {name for name, weight in trained.items() if not torch.equal(weight, first[name])}
    frozen = ("model.vqmodel.", "model.vision_model.", "model.aligner.", "lm_head.")
    assert changed
    assert not any(name.startswith(frozen) for name in changed)
    assert "model.generation_embeddings.weight" in changed


def test_curves_sheets_and_events_are_written(finished: Path) -> None:
    values = rows(finished)
    assert [row["step"] for row in values] == [1, 2, 3]
    expected = {
        "reward", "s_a", "s_g", "kl", "entropy", "clip share", "gradient norm", "rollout gap", "largest rollout gap",
        "live groups", "failed judgements", "ground truth logprob", "ground truth advantage", "mismatched logprob",
        "mismatched advantage", "learning rate", "seconds: draw and judge", "seconds: update", "samples per second",
    }  # fmt: skip
    assert expected <= values[0].keys()
    assert [path.name for path in sorted((finished / "grids").iterdir())] == ["000000.png", "000002.png", "000003.png"]
    assert list((finished / "tensorboard").iterdir())
    for picture in ("grids/000000.png", "curve.png"):
        with Image.open(finished / picture) as opened:
            assert opened.size[0] > 600


def test_rollouts_are_drawn_with_the_refreshed_weights(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine says how likely each code was; without the refresh, after an update, it says something else."""
    chosen = recipe(update={"learning_rate": [{"at": 0, "value": 3e-3}]})
    trainer(small_folder, tmp_path / "good", chosen).run()
    assert all(row["largest rollout gap"] < 1e-4 for row in rows(tmp_path / "good"))
    monkeypatch.setattr(Engine, "load_weights", lambda self, network: None)
    trainer(small_folder, tmp_path / "stale", chosen).run()
    first, *later = rows(tmp_path / "stale")
    assert first["largest rollout gap"] < 1e-4
    assert all(row["largest rollout gap"] > 1e-2 for row in later)


def test_the_clip_acts_from_the_second_update_on(small_folder: Path, tmp_path: Path) -> None:
    for updates in (1, 3):
        rates = {"learning_rate": [{"at": 0, "value": 3e-3}], "updates_per_rollout": updates}
        trainer(small_folder, tmp_path / str(updates), recipe(steps=1, update=rates)).run()
    assert rows(tmp_path / "1")[0]["clip share"] == 0
    assert rows(tmp_path / "3")[0]["clip share"] > 0


def test_training_raises_the_reward(small_folder: Path, tmp_path: Path) -> None:
    """Pictures become redder, step by step, far beyond what they differ by chance."""
    vanilla = recipe(
        steps=80,
        rollout={"pairs": 1, "samples": 8, "guidance_scale": 1.0},
        ground_truth={"use": "none"},
        loss={"beta": 0},
        update={"learning_rate": [{"at": 0, "value": 3e-4}]},  # at 1e-3 all pictures may be the same before the end
        output={"save_every": 80, "grid_every": 0},
    )
    trainer(small_folder, tmp_path, vanilla).run()
    rewards = [row["reward"] for row in rows(tmp_path)]
    first, last = np.array(rewards[:20]), np.array(rewards[-20:])
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / 20)
    assert last.mean() - first.mean() > 3 * error


@pytest.mark.parametrize(
    ("judge", "reason"),
    [
        (
            Constant(),
            "stopped at step 1: all 16 rewards are 0.25: the judge may be broken, or all pictures the same; "
            "no checkpoint was written yet",
        ),
        (
            Failing(4),
            "stopped at step 3: 100% of the judgements failed; at most 30% may; the checkpoint after step 2 is",
        ),
    ],
    ids=["constant", "failing"],
)
def test_a_broken_judge_stops_the_run(small_folder: Path, tmp_path: Path, judge: Judge, reason: str) -> None:
    """A quarter of failures is masked, all is too much; the same call goes on when the judge is well again."""
    chosen = recipe(judge={"most_failures": 0.3})
    with pytest.raises(TrainingError) as stopped:
        trainer(small_folder, tmp_path, chosen, judge).run()
    assert str(stopped.value).startswith(reason)
    trainer(small_folder, tmp_path, chosen).run()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]


def test_equal_rewards_stop_a_run_only_in_three_steps_in_a_row(small_folder: Path, tmp_path: Path) -> None:
    """In one step, or two, all prompts may be too hard. The curve is written up to the stop."""
    chosen = recipe(steps=6, ground_truth={"use": "none"}, output={"save_every": 6, "grid_every": 0})
    trainer(small_folder, tmp_path / "goes on", chosen, ConstantAtTimes(2, 3, 5, 6)).run()
    assert len(rows(tmp_path / "goes on")) == 6
    with pytest.raises(TrainingError, match="stopped at step 4: all 8 rewards are 0: the judge may be broken"):
        trainer(small_folder, tmp_path / "stops", chosen, ConstantAtTimes(2, 3, 4)).run()
    assert [row["step"] for row in rows(tmp_path / "stops")] == [1, 2, 3]


def test_a_model_may_draw_every_picture_right_but_not_from_the_first_step_on(
    small_folder: Path, tmp_path: Path
) -> None:
    chosen = recipe(steps=6, ground_truth={"use": "none"})
    trainer(small_folder, tmp_path / "goes on", chosen, ConstantAtTimes(1, 2, 4, 5, 6, score=1.0)).run()
    assert len(rows(tmp_path / "goes on")) == 6
    with pytest.raises(TrainingError, match="stopped at step 3: all 8 rewards are 1: the judge may be broken"):
        trainer(small_folder, tmp_path / "stops", chosen, ConstantAtTimes(1, 2, 3, score=1.0)).run()


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = trainer(small_folder, tmp_path, recipe())
    backward = failing._objective.backward
    calls = []

    def planted(*arguments: object) -> None:
        backward(*arguments)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) == 2:
            next(iter(failing._weights.parameters.values())).grad.fill_(torch.nan)  # type: ignore[union-attr]

    monkeypatch.setattr(failing._objective, "backward", planted)
    with pytest.raises(
        TrainingError, match="stopped at step 2: the gradient's norm is nan; the checkpoint after step 1"
    ):
        failing.run()
    assert all(parameter.isfinite().all() for parameter in failing._weights.parameters.values())


class Picky(Brightness):
    """Only prompts with a blue thing are judged; all others are 0."""

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        scores = super().__call__(images, prompts)
        return [score if "blue" in prompt else Judgement(0.0) for score, prompt in zip(scores, prompts, strict=True)]


@pytest.mark.parametrize(
    "ground_truth",
    [
        {"use": "both"},
        {"use": "positive", "advantage": 1.0, "probability": [{"at": 0.0, "value": 1.0}]},  # beside the groups
    ],
)
def test_dead_groups_are_replaced_by_others(
    small_folder: Path, tmp_path: Path, ground_truth: dict[str, object]
) -> None:
    """Pairs stay where they are, and each has the codes and rewards that its plan has by itself."""
    advantage = {"scope": "pair", "dead_groups": "resample", "resamples": 2}
    rollout = {"pairs": 6, "samples": 2, "guidance_scale": 2.0}
    chosen = recipe(advantage=advantage, rollout=rollout, ground_truth=ground_truth)
    made = trainer(small_folder, tmp_path, chosen, Picky())
    samples = made._samples.of(0)
    assert {plan.attempt for plan in samples.plans} >= {0, 2}
    for place, pair in enumerate(samples.by_pair()):
        (planned,) = pair.plans
        assert planned == plan_pair(chosen, made._source, 0, place, planned.attempt)
        alone = made._rollout.begin(pair.plans).samples()
        assert torch.equal(pair.codes, alone.codes)
        assert torch.equal(pair.rewards, alone.rewards)
        assert planned.attempt == 2 or any("blue" in prompt for prompt in planned.prompts)
    made._rollout.close()


def train_on_a_full_disk(folder: Path, out: Path) -> None:
    """Train three steps, of which the last cannot be written; prints the error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(step: int, row: object) -> None:
        if step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    try:
        trainer(folder, out, recipe(steps=3)).run(on_step=limit)
    except (OSError, ValueError) as error:
        print(type(error).__name__, error)


def test_a_full_disk_stops_the_run_and_the_last_checkpoint_stays(small_folder: Path, tmp_path: Path) -> None:
    """Files may grow to a few kilobytes only, as on a full disk; then there is room again."""
    out = tmp_path / "run"
    ended = ForkedCommand(partial(train_on_a_full_disk, small_folder, out), log=tmp_path / "log")
    assert ended.wait() == 0, ended.printed
    assert "000003 cannot be written" in ended.printed
    assert (out / "latest").resolve().name.endswith("-000002")
    trainer(small_folder, out, recipe(steps=3)).run()
    assert (out / "latest").resolve().name.endswith("-000003")
    assert not [path for path in (out / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.long
def test_a_run_killed_before_each_change_of_its_folder_equals_one_that_was_not(
    small_folder: Path, tmp_path: Path
) -> None:
    """Bit by bit: weights, optimizer, reference, rewards. Between two changes, a kill leaves what one at the end leaves."""
    ended = ForkedCommand(killed_runs, small_folder, tmp_path, log=tmp_path / "log")
    assert ended.wait() == 0, ended.printed
    assert sorted(ended.printed.splitlines()) == [
        "os.mkdir checkpoints/.killed-N",
        "os.mkdir checkpoints/.killed-N/trainer",
        "os.remove .latest",
        "os.remove samples/N.safetensors",
        "os.rename .curve.csv.partial",
        "os.rename .latest",
        "os.rename checkpoints/.killed-N",
        "os.rename checkpoints/killed-N",
        "os.rename samples/.N.safetensors.partial",
        "os.rmdir checkpoints/.N",
        "os.rmdir checkpoints/.killed-N",
        "os.symlink .latest",
    ]


def test_what_is_not_this_run_is_refused(small_folder: Path, tmp_path: Path, command: Callable[..., Ended]) -> None:
    """Another recipe or judge in the same folder is one line and exit code 2; the same command resumes."""
    toml = tmp_path / "short.toml"
    toml.write_text(
        "steps = 1\n[rollout]\npairs = 1\nsamples = 2\nguidance_scale = 2.0\n[judge]\nmost_failures = 0.0\n"
        "[update]\nlearning_rate = [{ at = 0.0, value = 1e-3 }]\n"
    )
    out = tmp_path / "run"

    def call(*arguments: str) -> Ended:
        return command(main, "grpo", "--out", out, *arguments)

    small = ("--model", str(small_folder), "--recipe", str(toml))
    stopped = call(*small)  # the exact judge gives every picture of an untrained model 0
    assert stopped.code == 2
    assert "all 4 rewards are 0: the judge may be broken, or all pictures the same" in stopped.err.splitlines()[-1]
    refused = {
        "seed differs": (*small, "--seed", "5"),
        "this run has judge 'exact', not 'endpoint'": (
            *small,
            "--judge",
            "http://127.0.0.1:9/v1",
            "--judge-model",
            "other",
        ),
    }
    for reason, arguments in refused.items():
        ended = call(*arguments)
        assert ended.code == 2
        assert reason in ended.err.splitlines()[-1]
    toml.write_text(toml.read_text().replace("samples = 2", "samples = 0"))
    assert "rollout.samples: Input should be greater than 0" in call(*small).err


def test_the_manifest_names_the_judge_and_its_questions(
    small_folder: Path, tmp_path: Path, command: Callable[..., Ended], endpoint: VlmEndpoint
) -> None:
    """A run judged at an endpoint; other questions or another model there are refused. Pictures are asked about once."""
    toml, questions = tmp_path / "short.toml", tmp_path / "questions.json"
    toml.write_text(
        "steps = 1\n[rollout]\npairs = 1\nsamples = 2\nguidance_scale = 2.0\n[output]\ngrid_every = 0\n"
        "[update]\nlearning_rate = [{ at = 0.0, value = 1e-3 }]\n"
    )
    questions.write_text('{"a long prompt": ["Is it long?"]}')
    call = ("grpo", "--model", small_folder, "--recipe", toml, "--out", tmp_path / "run", "--judge", endpoint.url)
    judge = ("--judge-model", "vlm", "--judge-questions", questions)
    ended = command(main, *call, *judge)
    assert ended.code == 0, ended.err
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    digest = Questions.read(questions).digest
    judged_by = {"judge": "endpoint", "judge model": "vlm", "judge weights": None, "judge questions": digest}
    assert {name: value for name, value in manifest.items() if "judge" in name} == judged_by
    assert load(tmp_path / "run" / "latest", device="cpu").reward_judge == judged_by
    (row,) = rows(tmp_path / "run")
    assert row["failed judgements"] == 0
    assert endpoint.questions.total() == 4
    assert "this run has judge model 'vlm', not 'other'" in command(main, *call, "--judge-model", "other").err
    assert f"this run has judge questions {digest!r}, not None" in command(main, *call, "--judge-model", "vlm").err
    shutil.rmtree(tmp_path / "run" / "samples")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert command(main, *call, *judge).code == 0
    assert endpoint.questions.total() == 4


def test_a_checkpoint_is_refused_where_one_is(finished: Path, small_folder: Path) -> None:
    made = trainer(small_folder, finished, recipe())
    with pytest.raises(CheckpointError, match="exists"):
        made._folder.save(3, made._janus, {})


def test_credit_is_drawn_where_it_went(small_folder: Path, tmp_path: Path) -> None:
    """A token without weight stays grey, one with four times the mean is red; the mean over each picture is 1."""
    picture = Image.new("RGB", (8, 8), (100, 100, 100))
    overlay = np.asarray(credit_overlay(picture, torch.tensor([[0.0, 4.0], [2.0, 9.0]])))
    assert overlay[0, 0].tolist() == [100, 100, 100]
    assert overlay[3, 4].tolist() == overlay[7, 7].tolist() == [255, 30, 30]
    assert overlay[4, 3].tolist() == [178, 65, 65]  # half way
    output = {"save_every": 1, "grid_every": 2}
    made = trainer(small_folder, tmp_path, recipe(steps=3, credit={"method": "pair"}, output=output))
    made.run()
    names = [path.name for path in sorted((tmp_path / "grids").glob("credit*"))]
    assert names == ["credit-000002.png", "credit-000003.png"]
    weights = torch.stack(list(made._objective.credit.values()))
    assert weights.mean(1).tolist() == pytest.approx([1.0] * len(weights), rel=1e-4)
    assert weights.std() > 0.1
