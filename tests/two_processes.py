"""One step's samples and gradient, and whole runs, in two processes.

    torchrun --nproc-per-node 2 -m tests.two_processes CHECKPOINT FOLDER

Writes to FOLDER, for tests/test_train_parallel.py: samples and gradients of the first step by kind, runs, and numbers
of threads.
"""

import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.speed.server_process import free_port
from model.checkpoints.load import load
from pairs.world import World
from tests.grpo_runs import Brightness, recipe, trainer
from tests.stopping import Killed, stopping_at
from train.data.opening import DataSettings
from train.data.pairs import WorldPairs
from train.grpo.metrics import Means
from train.grpo.recipe import GRPORecipe
from train.grpo.step_samples import advantages_of
from train.grpo.trainer import Trainer
from train.ranks import ALONE, Ranks, join, leave
from train.sft.recipe import SFTRecipe
from train.sft.run import train as sft
from train.weights.sharded import whole

STEPS = 3
PAIRS = WorldPairs(World(), seed=0, size=64)


def chosen(steps: int = STEPS, *, sheets: int = 0) -> GRPORecipe:
    """Three pairs for two processes, with a contact sheet after every `sheets` steps."""
    rollout = {"pairs": 3, "samples": 3, "guidance_scale": 2.0}
    output = {"save_every": 1, "keep": 2, "grid_every": sheets}
    ground_truth = {"use": "positive", "probability": [{"at": 0, "value": 1}]}  # whatever the number of steps
    return recipe(steps=steps, rollout=rollout, output=output, ground_truth=ground_truth)


class Refreshed(Trainer):
    """Refreshes its reference after the second step, so that checkpoints must hold it."""

    def _remedy(self, step: int) -> None:
        if step == 1 and self._reference is not None:
            self._reference.refresh()


def refreshing(checkpoint: Path, out: Path, recipe: GRPORecipe, ranks: Ranks = ALONE) -> Refreshed:
    return Refreshed(load(checkpoint, device="cpu"), PAIRS, Brightness(), recipe, out, slots=4, ranks=ranks)


def first_step(made: Trainer) -> dict[str, torch.Tensor]:
    """Codes, rewards and gradient of a run's first step."""
    samples = made._samples.of(0)
    advantages, means = advantages_of(samples, made._recipe), Means()
    # an odd number of samples to train on, which two processes cannot share evenly
    values = advantages.values.clone()
    values[4] = 0
    assert values.count_nonzero() % 2 == 1
    advantages = replace(advantages, values=values)
    made._objective.backward(samples, advantages, made._objective.old_policy(samples), means)
    gradients = {name: whole(p.grad).clone() for name, p in made._weights.parameters.items() if p.grad is not None}
    kl = torch.tensor(means.gather(made._ranks).result()["kl"])
    return {"codes": samples.codes, "rewards": samples.rewards, "kl": kl, **gradients}


def train_sft(checkpoint: Path, out: Path, ranks: Ranks, stop_at: int | None = None) -> None:
    """Four steps of supervised fine-tuning on the procedural world, or fewer."""
    settings = {
        "steps": 4, "batch_size": 4, "micro_batch": 1, "learning_rate": 1e-3, "warmup": 1, "weight_decay": 0.1,
        "drop_prompt": 0.3, "average": False, "save_every": 2,
    }  # fmt: skip
    with stopping_at(stop_at):
        chosen = SFTRecipe.model_validate(settings)
        sft(load(checkpoint, device="cpu"), chosen, out, data=DataSettings("world"), ranks=ranks)


def group_threads() -> int | None:
    """Number of this process's threads that belong to a process group (Gloo); None where the system does not say."""
    threads = Path("/proc/self/task")
    if not threads.exists():
        return None
    return sum("gloo" in (thread / "comm").read_text() for thread in threads.iterdir())


def go_on_alone(checkpoint: Path, out: Path) -> None:
    """Go on with a sharded run in this process alone."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(alone, MASTER_PORT=str(free_port()))
    ranks = join("fsdp", processes=1)
    refreshing(checkpoint, out, chosen(), ranks).run()
    leave()


def main() -> None:
    """Compute a step of GRPO by DDP and by FSDP2, then train, stop and resume, also SFT."""
    checkpoint, folder = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    ddp = join("ddp", processes=2)
    fsdp = replace(ddp, kind="fsdp")
    for ranks in (ddp, fsdp):
        step = first_step(trainer(checkpoint, folder / f"{ranks.kind}-step", chosen(), ranks=ranks))
        if ranks.first:
            save_file(step, folder / f"{ranks.kind}.safetensors")
    refreshing(checkpoint, folder / "ddp", chosen(), ddp).run()
    refreshing(checkpoint, folder / "fsdp", chosen(sheets=STEPS), fsdp).run()
    refreshing(checkpoint, folder / "resumed", chosen(2), fsdp).run()
    trainer(checkpoint, folder / "resumed", chosen(), ranks=fsdp).run()
    for ranks in (ddp, fsdp):
        train_sft(checkpoint, folder / f"sft-{ranks.kind}", ranks)
    with suppress(Killed):
        train_sft(checkpoint, folder / "sft-resumed", fsdp, stop_at=2)
    train_sft(checkpoint, folder / "sft-resumed", fsdp)
    during = group_threads()
    leave()
    (folder / f"threads-{ddp.rank}.json").write_text(json.dumps([during, group_threads()]))


if __name__ == "__main__":
    main()
