"""A picture of results beside the roofline of the card (Williams et al. 2009)."""

from collections.abc import Sequence
from pathlib import Path

from bench.cuda.result import Result
from bench.cuda.table import Table
from pairs.files import write_atomically

_MARKS = {"kernels": "o", "steps": "s", "windows": "^"}


def plot_roofline(results: Sequence[Result], table: Table, file: Path) -> None:
    """Draw the operations a second of all results that compute and read, over their operations a byte, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=150)
    shown = [one for one in results if one.part in _MARKS and one.flops and one.bytes]
    for part, mark in _MARKS.items():
        own = [one for one in shown if one.part == part]
        if own:
            axes.scatter(
                [one.flops / one.bytes for one in own],
                [one.flops / one.seconds for one in own],
                marker=mark,
                label=part,
            )
    if table.bytes_a_second and table.flops_a_second and shown:
        intensities = [one.flops / one.bytes for one in shown]
        ends = [min(intensities) / 2, table.flops_a_second / table.bytes_a_second, 2 * max(intensities)]
        ends.sort()
        roof = [min(table.flops_a_second, end * table.bytes_a_second) for end in ends]
        axes.plot(ends, roof, color="black", label="the card")
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="operations a second")
    axes.legend()
    figure.tight_layout()
    write_atomically(file, lambda partial: figure.savefig(partial, format="png"))
    pyplot.close(figure)
