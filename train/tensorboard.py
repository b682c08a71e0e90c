"""TensorBoard files of a run."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class TensorBoard:
    """Writes a run's values and pictures for TensorBoard.

    Args:
        folder: of the event files.
        start: step at which the run resumes; events of later steps, written before a kill, are hidden.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder, purge_step=start + 1)

    def values(self, row: dict[str, float]) -> None:
        """Write a row of values; its key `step` is their step."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name.replace(": ", "/"), value, int(row["step"]))
        self._writer.flush()

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Write a picture."""
        self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
