"""Kill runs of GRPO at random moments, resume them, and compare them with a run that was not killed.

    python -m tests.killed_runs CHECKPOINT FOLDER KILLS

Lives are forked from this process, which has imported everything and computed nothing.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import matplotlib.figure  # noqa: F401  as training would in every life
import torch
import torch.utils.tensorboard

from tests.test_train_grpo_run import recipe, trainer

STEPS = 6


def live(checkpoint: Path, out: Path, seconds: float | None) -> int | None:
    """Train in a process of its own, killed after some seconds; the exit code of one that ended before, else None."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        output = {"save_every": 1, "keep": 2, "grid_every": 0}
        rollout = {"pairs": 1, "samples": 2, "guidance_scale": 2.0}
        remedies = {"window": 2, "slow": 1e-7}  # with seed 1, the reference is refreshed after step 4
        trainer(checkpoint, out, recipe(steps=STEPS, seed=1, output=output, rollout=rollout, remedies=remedies)).run()
        os._exit(0)
    until = None if seconds is None else time.monotonic() + seconds
    while until is None or time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def same(one: object, other: object) -> bool:
    """Whether two states are equal, bit by bit; seconds and rates of rows are left out."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        names = {name for name in one if "second" not in str(name)}
        return names == {name for name in other if "second" not in str(name)} and all(
            same(one[name], other[name]) for name in names
        )
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def check(out: Path, reference: Path) -> None:
    """Compare the last checkpoints of two runs."""
    mine, other = ((folder / "latest").resolve() for folder in (out, reference))
    assert mine.name == f"killed-{STEPS:06d}"
    assert other.name == f"undisturbed-{STEPS:06d}"
    assert (mine / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    states = [torch.load(folder / "trainer" / "state.pt", weights_only=True) for folder in (mine, other)]
    assert same(*states)
    assert states[0]["remedied"] > 0


def main() -> None:
    """Kill until there were enough kills."""
    checkpoint, folder, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    reference = folder / "undisturbed"
    torch.set_num_threads(1)
    begun = time.monotonic()
    assert live(checkpoint, reference, None) == 0
    whole = time.monotonic() - begun
    moments = random.Random(0)
    out, killed, finished, saving = folder / "killed", 0, 0, 0
    while killed < kills:
        code = live(checkpoint, out, moments.uniform(0.02, 0.7) * whole)
        if code is None:
            killed += 1
            checkpoints = out / "checkpoints"
            saving += checkpoints.exists() and any(path.name.startswith(".") for path in checkpoints.iterdir())
            continue
        assert code == 0
        check(out, reference)
        finished += 1
        shutil.rmtree(out)
    assert live(checkpoint, out, None) == 0
    check(out, reference)
    counts = {"kills": killed, "kills while saving": saving, "kills elsewhere": killed - saving}
    print(json.dumps(counts | {"finished runs": finished + 1, "seconds of a whole run": round(whole, 2)}))


if __name__ == "__main__":
    main()
