"""The values of a training run by step: a table and its picture."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from pairs.files import write_atomically

Row = dict[str, float]
_COLUMNS = 4  # of plots


class Curve:
    """Rows of values by step; the key `step` is in every row.

    Written as `curve.csv` and `curve.png`.
    """

    def __init__(self, folder: Path) -> None:
        self.rows: list[Row] = []
        self._folder = folder

    def add(self, step: int, values: Mapping[str, float]) -> Row:
        """Add a row."""
        row = {"step": float(step), **values}
        self.rows.append(row)
        return row

    def write(self) -> None:
        """Write all files.

        Raises:
            OSError: a file cannot be written.
        """
        if self.rows:
            write_atomically(self._folder / "curve.csv", self._write_csv)
            write_atomically(self._folder / "curve.png", self._write_png)

    @property
    def names(self) -> list[str]:
        """Names of all values, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row if name != "step"))

    def _write_csv(self, path: Path) -> None:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *self.names])
            writer.writeheader()
            writer.writerows(self.rows)

    def _write_png(self, path: Path) -> None:
        from matplotlib.figure import Figure

        columns = min(_COLUMNS, len(self.names))
        lines = math.ceil(len(self.names) / columns)
        figure = Figure(figsize=(4 * columns, 3 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        for axis, name in zip(axes, self.names, strict=False):
            rows = [row for row in self.rows if name in row]
            axis.plot([row["step"] for row in rows], [row[name] for row in rows])
            axis.set(title=name, xlabel="step")
            axis.grid(alpha=0.3)
        for axis in axes[len(self.names) :]:
            axis.remove()
        figure.savefig(path, format="png", dpi=100)
