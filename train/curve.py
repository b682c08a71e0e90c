"""The values of a training run by step: a table and its picture."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pairs.files import write_atomically
from pairs.smoothing import running_mean

Row = dict[str, float]
_COLUMNS = 4  # of plots


class Curve:
    """Rows of values by step; the key `step` is in every row.

    Written as `curve.csv`, and drawn as `curve.png`, each with its running mean.

    Args:
        folder: of both files.
        drawn: names of the values that are drawn; all, if none are given. A plot takes about a tenth of a second.
    """

    def __init__(self, folder: Path, *, drawn: Sequence[str] = ()) -> None:
        self.rows: list[Row] = []
        self._folder, self._drawn = folder, drawn

    def add(self, step: int, values: Mapping[str, float]) -> Row:
        """Add a row."""
        row = {"step": float(step), **values}
        self.rows.append(row)
        return row

    def write(self) -> None:
        """Write the table.

        Raises:
            OSError: it cannot be written.
        """
        if self.rows:
            write_atomically(self._folder / "curve.csv", self._write_csv)

    def draw(self) -> None:
        """Draw the plots.

        Raises:
            OSError: the picture cannot be written.
        """
        if self.rows:
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

        names = [name for name in self.names if name in self._drawn or not self._drawn]
        columns = min(_COLUMNS, len(names))
        lines = math.ceil(len(names) / columns)
        figure = Figure(figsize=(4 * columns, 3 * lines))
        # placed by hand: matplotlib's own layouts draw everything twice
        figure.subplots_adjust(left=0.2 / columns, right=1 - 0.05 / columns, wspace=0.25, hspace=0.45)
        for place, name in enumerate(names):
            axis = figure.add_subplot(lines, columns, place + 1)
            rows = [row for row in self.rows if name in row]
            steps, values = [row["step"] for row in rows], [row[name] for row in rows]
            axis.plot(steps, values, alpha=0.3, linewidth=1)
            axis.plot(steps, running_mean(values), color="C0")
            axis.set(title=name, xlabel="step")
            axis.grid(alpha=0.3)
        figure.savefig(path, format="png", dpi=100)
