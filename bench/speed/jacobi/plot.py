"""A picture of the codes that windows add, by width and by line of the picture."""

from collections.abc import Mapping
from pathlib import Path

from bench.speed.jacobi.recording import WIDTHS, Recording
from pairs.scores import mean
from serve.engine.confirmation import reach

_LABELS = {False: "alone", True: "twin drawn before"}
_BY_LINE = 4  # width whose windows are shown by line


def draw_confirmation(recorded: Mapping[bool, Recording], path: Path) -> None:
    """Write a PNG of recordings without (False) and with (True) a finished twin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3))
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.17, top=0.9, wspace=0.22)
    by_width, by_line = figure.subplots(1, 2)
    for number, (twin, own) in enumerate(recorded.items()):
        found = [own.codes_per_step(width) for width in WIDTHS]
        by_width.errorbar(
            WIDTHS, [one.value for one in found], yerr=[2 * one.standard_error for one in found],
            marker="o", markersize=3, linewidth=1, color=f"C{number}", label=_LABELS[twin],
        )  # fmt: skip
        factor = fitted_gain(own)
        fit = [1 + factor * reach(width) for width in WIDTHS]
        by_width.plot(WIDTHS, fit, linestyle=":", color=f"C{number}", label=f"1 + {factor:.2f} · reach")
        lines = [(line, mean(added)) for line, added in enumerate(own.by_line(_BY_LINE), 1) if added]
        by_line.errorbar(
            [line for line, _ in lines], [one.value for _, one in lines], yerr=[2 * one.standard_error for _, one in lines],
            marker="o", markersize=3, linewidth=1, color=f"C{number}", label=_LABELS[twin],
        )  # fmt: skip
    by_width.set(title="codes a step", xlabel="places of a window")
    by_line.set(title=f"codes a step, {_BY_LINE} places", xlabel="line of the picture")
    by_line.set_ylim(bottom=1)
    for axis in (by_width, by_line):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=100)


def fitted_gain(recorded: Recording) -> float:
    """The gain with which 1 + gain · `serve.engine.confirmation.reach` is nearest to the codes of a step, by least squares."""
    reached = [reach(width) for width in WIDTHS]
    added = [recorded.codes_per_step(width).value - 1 for width in WIDTHS]
    return sum(a * b for a, b in zip(reached, added, strict=True)) / sum(one**2 for one in reached)
