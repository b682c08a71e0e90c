"""Kill a run of GRPO before each kind of change of its folder, and resume it."""

import os
import re
import signal
import sys
from pathlib import Path

import torch

from tests.grpo_runs import recipe, trainer

STEPS = 8
CHOSEN = recipe(
    steps=STEPS,
    seed=1,
    output={"save_every": 1, "keep": 2, "grid_every": 0},
    rollout={"pairs": 1, "samples": 2, "guidance_scale": 2.0},
    remedies={"window": 2, "slow": 1e-7},  # with seed 1, the reference is refreshed after step 4
)
_FIRST = 3  # number of the checkpoint that kills begin with: until then, no old one is removed


def live(checkpoint: Path, out: Path, survived: set[str] | None) -> str | None:
    """Train in a process of its own, forked from this one.

    Args:
        checkpoint: the first policy.
        out: folder of the run.
        survived: kinds of changes that the process does not die of; None if it dies of none.

    Returns:
        Kind of the change that it was killed before; None if it came to the end.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        if survived is not None:
            sys.addaudithook(lambda event, arguments: _die(event, arguments, out, survived, writing))
        trainer(checkpoint, out, CHOSEN).run()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        kind = said.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (-signal.SIGKILL if kind else 0)
    return kind or None


def _die(event: str, arguments: tuple[object, ...], out: Path, survived: set[str], writing: int) -> None:
    """Kill this process, and say why, if an audit event announces a change of a kind that it does not survive."""
    if event in ("os.mkdir", "os.symlink"):
        path = Path(str(arguments[event == "os.symlink"]))
        changes = not path.exists()
    elif event in ("os.rename", "os.remove", "os.rmdir"):
        path = Path(str(arguments[0]))
        changes = path.is_symlink() or path.exists()
    else:
        return
    begun = path.is_relative_to(out) and any(int(one.name[-6:]) >= _FIRST for one in out.glob("checkpoints/[!.]*"))
    name = re.sub(r"[0-9]+([.][a-z0-9_]{8}(?=/|$))?", "N", str(path).removeprefix(f"{out}/"))
    kind = f"{event} {name}\n"
    if changes and begun and kind not in survived:
        os.write(writing, kind.encode())
        os.kill(os.getpid(), signal.SIGKILL)


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


def main() -> None:
    """Prints what each life was killed before. Arguments: CHECKPOINT FOLDER."""
    checkpoint, folder = Path(sys.argv[1]), Path(sys.argv[2])
    whole, out = folder / "undisturbed", folder / "killed"
    assert live(checkpoint, whole, survived=None) is None
    survived: set[str] = set()
    while (kind := live(checkpoint, out, survived)) is not None:
        print(kind, end="")
        survived.add(kind)
    mine, other = ((run / "latest").resolve() for run in (out, whole))
    assert (mine.name, other.name) == (f"killed-{STEPS:06d}", f"undisturbed-{STEPS:06d}")
    assert (mine / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    states = [torch.load(one / "trainer" / "state.pt", weights_only=True) for one in (mine, other)]
    assert same(*states)
    assert states[0]["remedied"] > 0
