"""The folder of a run: checkpoints that are complete or absent, and the samples since the oldest of them.

checkpoints/<run>-000100/   a checkpoint that focusdiff-serve, transformers and this run read
    trainer/state.pt         the rest of the run's state
latest                       link to the newest of them
samples/000101.safetensors …
curve.csv, curve.png, tensorboard/, grids/
"""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as distributed_load
from torch.distributed.checkpoint.state_dict_saver import save as distributed_save

from model.checkpoints.save import save
from model.checkpoints.tensors import read_tensors
from model.janus import Janus
from train.errors import TrainingError
from train.ranks import ALONE, Ranks

_DIGITS = 6  # of a step in names, so that names sort as steps do


class RunFolder:
    """Checkpoints and samples of a run.

    Args:
        folder: made if missing.
        keep: number of checkpoints kept, the newest ones.
        ranks: the processes of the run; the first one writes, together with the others where each has a part.
    """

    def __init__(self, folder: Path, *, keep: int, ranks: Ranks = ALONE) -> None:
        self.folder, self._keep, self._ranks = folder, keep, ranks
        self._checkpoints = folder / "checkpoints"
        for part in (self._checkpoints, folder / "samples", folder / "grids"):
            part.mkdir(parents=True, exist_ok=True)

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order."""
        return sorted(int(path.name[-_DIGITS:]) for path in self._checkpoints.iterdir() if path.name[:1] != ".")

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint after `step` steps."""
        return self._checkpoints / f"{self.folder.resolve().name}-{step:0{_DIGITS}d}"

    def samples(self, step: int) -> Path:
        """File of the samples of a step."""
        return self.folder / "samples" / f"{step:0{_DIGITS}d}.safetensors"

    def grid(self, step: int) -> Path:
        """Contact sheet drawn after `step` steps."""
        return self.folder / "grids" / f"{step:0{_DIGITS}d}.png"

    def credit(self, step: int) -> Path:
        """Sheet of the credit weights in step `step`, counted from 1."""
        return self.folder / "grids" / f"credit-{step:0{_DIGITS}d}.png"

    def recover(self) -> int:
        """Clear away what a kill left half done; returns the step to go on from."""

        def clear() -> int:
            for left in self._checkpoints.glob(".*"):
                shutil.rmtree(left, ignore_errors=True)
            if self.steps:
                self._link(self.steps[-1])
            return self.steps[-1] if self.steps else 0

        found = self._ranks.together(lambda: clear() if self._ranks.first else 0)
        return found[0]

    def save(self, step: int, janus: Janus, state: dict[str, Any], shards: dict[str, Any] | None = None) -> None:
        """Write the checkpoint after `step` steps, point `latest` to it, and remove what is no longer kept.

        Args:
            step: number of steps done.
            janus: the model.
            state: what all processes have.
            shards: what this process has a part of, written by all of them into one distributed checkpoint; nested
                dictionaries of tensors.

        Raises:
            CheckpointError: it cannot be written (disk full, no permission); the checkpoints before it are kept.
        """
        if shards is None:
            self._ranks.at_first(lambda: self._save(step, janus, state, lambda partial: None))
        else:
            self._ranks.together(lambda: self._save_together(step, janus, state, shards))

    def _save_together(self, step: int, janus: Janus, state: dict[str, Any], shards: dict[str, Any]) -> None:
        """In all processes: the first one names the unfinished folder, and all write into it."""

        def write(folder: Path | None) -> None:
            named = self._ranks.broadcast(folder)
            if named is not None:
                distributed_save(shards, checkpoint_id=named / "trainer" / "shards")

        if not self._ranks.first:
            write(None)
            return
        written: list[Path] = []

        def add(partial: Path) -> None:
            written.append(partial)
            write(partial)

        try:
            self._save(step, janus, state, add)
        finally:
            if not written:
                write(None)  # the others would wait for ever

    def _save(self, step: int, janus: Janus, state: dict[str, Any], also: Callable[[Path], None]) -> None:
        def add_state(partial: Path) -> None:
            buffer = io.BytesIO()  # torch.save to a path would hide that the disk is full
            torch.save(state, buffer)
            (partial / "trainer").mkdir()
            (partial / "trainer" / "state.pt").write_bytes(buffer.getbuffer())
            also(partial)

        save(janus, self.checkpoint(step), also=add_state)
        self._link(step)
        for old in self.steps[: -self._keep]:
            hidden = self._checkpoints / f".{old}"  # so that a kill leaves no damaged checkpoint
            self.checkpoint(old).rename(hidden)
            shutil.rmtree(hidden)
        for file in (self.folder / "samples").glob("*.safetensors"):
            if int(file.stem) < self.steps[0]:
                file.unlink()

    def stopped(self, step: int, reason: str) -> TrainingError:
        """The error that ends a run in a step, counted from 0; its message names the checkpoint that is kept."""
        kept = self.steps[-1:]
        good = f"the checkpoint after step {kept[0]} is kept" if kept else "no checkpoint was written yet"
        return TrainingError(f"stopped at step {step + 1}: {reason}; {good}")

    def load(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read a checkpoint's weights by name, and the state saved with it."""
        folder = self.checkpoint(step)
        weights: dict[str, Tensor] = dict(read_tensors(folder))
        state: dict[str, Any] = torch.load(folder / "trainer" / "state.pt", weights_only=True, map_location="cpu")
        return weights, state

    def load_shards(self, step: int, shards: dict[str, Any]) -> None:
        """Read this process's part of the state into the tensors of `shards`, whatever number of processes saved it."""
        distributed_load(shards, checkpoint_id=self.checkpoint(step) / "trainer" / "shards")

    def _link(self, step: int) -> None:
        link = self.folder / ".latest"
        link.unlink(missing_ok=True)
        link.symlink_to(self.checkpoint(step).relative_to(self.folder), target_is_directory=True)
        os.replace(link, self.folder / "latest")
