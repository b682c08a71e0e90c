"""A training stage on disk: progress, loss curves, and checkpoints to resume from after a kill."""

import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from pairs.files import write_atomically
from train.curve import Curve, Row

LOG_EVERY = 20  # steps per row of the curve
SAVE_EVERY_SECONDS = 60.0


class Stateful(Protocol):
    """Object whose state a checkpoint can hold: module, optimiser, running average."""

    def state_dict(self) -> Any:
        """Everything needed to resume."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Restore a saved state."""


class Stage:
    """A stage of training in a folder: `state.pt`, `curve.csv` and `curve.png`.

    The batch of a step must depend on the step's number alone: then a run that was killed continues
    exactly as if it had not been.
    """

    def __init__(self, folder: Path, total_steps: int) -> None:
        self.folder = folder
        self.total_steps = total_steps
        self._sums: dict[str, float] = {}
        self._count = 0
        self._curve = Curve(folder)
        self._bar: Any = None
        folder.mkdir(parents=True, exist_ok=True)

    def steps(self, state: Mapping[str, Stateful]) -> Iterator[int]:
        """Yield the numbers of the remaining steps.

        Restores `state` first; saves it every SAVE_EVERY_SECONDS and at the end.
        """
        start = self._restore(state)
        saved = time.monotonic()
        with tqdm(total=self.total_steps, initial=start, desc=self.folder.name, mininterval=1) as self._bar:
            for step in range(start, self.total_steps):
                yield step
                self._bar.update()
                if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                    self._save(step + 1, state)
                    saved = time.monotonic()
        self._save(self.total_steps, state)

    def log(self, step: int, **values: torch.Tensor | float) -> None:
        """Record a step's values; every LOG_EVERY steps, their means become a row of the curve."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._count += 1
        if (step + 1) % LOG_EVERY == 0 or step + 1 == self.total_steps:
            row = self._curve.add(step + 1, {name: total / self._count for name, total in self._sums.items()})
            self._sums, self._count = {}, 0
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in row.items() if name != "step"})

    @property
    def rows(self) -> list[Row]:
        """The curve so far: one mapping per row, with the key `step` among others."""
        return self._curve.rows

    def _restore(self, state: Mapping[str, Stateful]) -> int:
        path = self.folder / "state.pt"
        if not path.exists():
            return 0
        saved = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in state.items():
            part.load_state_dict(saved["state"][name])
        self._curve.rows, self._sums, self._count = saved["rows"], saved["sums"], saved["count"]
        step: int = saved["step"]
        return step

    def _save(self, step: int, state: Mapping[str, Stateful]) -> None:
        content = {
            "step": step,
            "state": {name: part.state_dict() for name, part in state.items()},
            "rows": self._curve.rows,
            "sums": self._sums,
            "count": self._count,
        }
        buffer = io.BytesIO()  # torch.save to a path would hide that the disk is full
        torch.save(content, buffer)
        write_atomically(self.folder / "state.pt", lambda path: path.write_bytes(buffer.getbuffer()))
        self._curve.write()
        self._curve.draw()
