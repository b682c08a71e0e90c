"""Training in two processes: the same samples and gradients as in one; sharded runs resume and are served."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from transformers import JanusForConditionalGeneration

from model.checkpoints.load import load
from model.generate import generate
from pairs.world import World
from tests.forked_command import ForkedCommand
from tests.grpo_runs import recipe, rows, trainer
from tests.two_processes import STEPS, chosen, first_step, go_on_alone, refreshing, train_sft
from train.data.pairs import WorldPairs
from train.errors import TrainingError
from train.grpo.objective.advantage import Advantages
from train.grpo.objective.micro_batches import micro_batches
from train.grpo.rollout.plan import plan
from train.grpo.rollout.samples import Samples
from train.ranks import ALONE, Ranks, join

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def together(small_folder: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Folder written by `tests.two_processes`, which runs once for all workers of pytest."""
    mine = tmp_path_factory.getbasetemp()
    folder = (mine if worker_id == "master" else mine.parent) / "two"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
            command += ["-m", "tests.two_processes", str(small_folder), str(folder)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, cwd=ROOT)
            (folder / "said").write_text(ended.stdout + ended.stderr)
            (folder / "code").write_text(str(ended.returncode))
    assert (folder / "code").read_text() == "0", (folder / "said").read_text()
    return folder


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_draw_the_codes_of_one_and_their_gradient_agrees(
    together: Path, small_folder: Path, tmp_path: Path, kind: str
) -> None:
    alone = first_step(trainer(small_folder, tmp_path, chosen()))
    found = load_file(together / f"{kind}.safetensors")
    assert found.keys() == alone.keys()
    assert torch.equal(found.pop("codes"), alone["codes"])
    assert torch.equal(found.pop("rewards"), alone["rewards"])
    norm = torch.stack([value.norm() for name, value in alone.items() if name in found]).norm()
    for name, gradient in found.items():
        assert (gradient - alone[name]).norm() < 1e-5 * norm, name


def test_two_processes_train_as_one_does(together: Path, small_folder: Path, tmp_path: Path) -> None:
    """Rewards and distances of the first two steps, which depend on the first update."""
    refreshing(small_folder, tmp_path / "run", chosen()).run()
    alone = rows(tmp_path / "run")
    for kind in ("ddp", "fsdp"):
        found = rows(together / kind)
        assert len(found) == STEPS
        for name in ("reward", "kl", "entropy", "gradient norm", "ground truth logprob", "live groups"):
            for mine, other in zip(found[:2], alone[:2], strict=True):
                assert mine.get(name) == pytest.approx(other.get(name), rel=1e-3, abs=1e-6), (kind, name)


@pytest.mark.parametrize("rank", [0, 1])
def test_no_thread_of_the_process_group_outlives_it(together: Path, rank: int) -> None:
    """A thread that runs while the interpreter ends can abort a process whose work is done."""
    during, after = json.loads((together / f"threads-{rank}.json").read_text())
    if during is None:
        pytest.skip("needs /proc, to count threads")
    assert during > 0
    assert after == 0


def test_a_sharded_run_that_was_stopped_equals_one_that_was_not(together: Path) -> None:
    whole, resumed = (load_file(together / run / "latest" / "model.safetensors") for run in ("fsdp", "resumed"))
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


def test_another_number_of_processes_goes_on_from_the_shards(
    together: Path, small_folder: Path, tmp_path: Path
) -> None:
    """One process makes the third step of two: weights, moments and reference are whole again."""
    shutil.copytree(together / "fsdp", tmp_path / "fsdp", symlinks=True)
    shutil.rmtree(tmp_path / "fsdp" / "checkpoints" / f"fsdp-{STEPS:06d}")
    ended = ForkedCommand(partial(go_on_alone, small_folder, tmp_path / "fsdp"), log=tmp_path / "log")
    assert ended.wait() == 0, ended.printed
    start = load_file(small_folder / "model.safetensors")
    two, one = (load_file(folder / "fsdp" / "latest" / "model.safetensors") for folder in (together, tmp_path))
    moved = torch.stack([(weight - start[name]).norm() for name, weight in two.items()]).norm()
    apart = torch.stack([(weight - one[name]).norm() for name, weight in two.items()]).norm()
    assert (tmp_path / "fsdp" / "latest").resolve().name.endswith(f"-{STEPS:06d}")
    assert apart < 1e-3 * moved


def test_what_a_sharded_run_saves_is_served(together: Path, small_folder: Path) -> None:
    latest = together / "fsdp" / "latest"
    trained, first = load(latest, device="cpu"), load(small_folder, device="cpu")
    JanusForConditionalGeneration.from_pretrained(latest)
    assert not torch.equal(generate(trained, ["a red star"], seeds=[1]), generate(first, ["a red star"], seeds=[1]))
    assert sorted(path.name for path in (latest / "trainer").iterdir()) == ["shards", "state.pt"]


def test_sft_in_two_processes_has_the_losses_of_one_and_resumes(
    together: Path, small_folder: Path, tmp_path: Path
) -> None:
    train_sft(small_folder, tmp_path / "alone", ALONE)
    alone = rows(tmp_path / "alone")
    assert len(alone) == 4
    for kind in ("ddp", "fsdp"):
        for mine, other in zip(rows(together / f"sft-{kind}"), alone, strict=True):
            for name in ("loss", "gradient norm"):
                assert mine[name] == pytest.approx(other[name], rel=1e-4)
    whole, resumed = (load_file(together / run / "latest" / "model.safetensors") for run in ("sft-fsdp", "sft-resumed"))
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    start = load_file(small_folder / "model.safetensors")
    assert not all(torch.equal(weight, start[name]) for name, weight in whole.items())


@pytest.mark.parametrize(("count", "chosen_count"), [(2, 5), (3, 7), (4, 5), (4, 1), (8, 0), (3, 9)])
def test_every_process_has_as_many_micro_batches_and_every_sample_counts_once(
    small_folder: Path, count: int, chosen_count: int
) -> None:
    janus = load(small_folder, device="cpu")
    plans = plan(recipe(rollout={"pairs": 3, "samples": 3, "guidance_scale": 2.0}), WorldPairs(World(), 0, 64), 0)
    total = sum(pair.samples for pair in plans)
    samples = Samples(plans, torch.zeros(total, 64, dtype=torch.long), torch.zeros(total, 64), torch.zeros(total))
    taken = torch.arange(total) < chosen_count
    advantages = Advantages(torch.ones(total), taken, torch.ones(3, dtype=torch.bool))
    shares = [micro_batches(samples, advantages, taken, 2, janus, Ranks("fsdp", rank, count)) for rank in range(count)]
    assert len({tuple(len(batch.numbers) for batch in share) for share in shares}) == 1
    counted = [
        number
        for share in shares
        for batch in share
        for number, counts in zip(batch.numbers, batch.counted[:, 0].tolist(), strict=True)
        if counts
    ]
    assert sorted(counted) == list(range(chosen_count))


def test_what_was_asked_for_is_what_runs(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="--parallel ddp needs processes started by torchrun"):
        join("ddp")
    with pytest.raises(TrainingError, match="2 processes need --parallel"):
        join("none", processes=2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(TrainingError, match="4 processes need --parallel"):
        join("none")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(TrainingError, match="--processes 2, but torchrun started 4"):
        join("fsdp", processes=2)
    with pytest.raises(TrainingError, match=r"rollout\.pairs is 2: too few for 3 processes"):
        trainer(small_folder, tmp_path, recipe(), ranks=Ranks("ddp", 0, 3))
