"""Figures of an ablation: what each contrast gains, and the reward by step."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pairs.smoothing import running_mean
from train.ablation.report import Contrast

_COLUMNS = 4  # of panels


def draw_contrasts(contrasts: Sequence[Contrast], path: Path) -> None:
    """Write a PNG with the gain of every contrast and its 95 % interval; what is resolved is filled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.32 * len(contrasts)), layout="constrained")
    axis = figure.add_subplot()
    for place, one in enumerate(contrasts):
        low, high = one.gain.interval
        color = {"better": "C0", "worse": "C3", "not resolved": "0.5"}[one.verdict]
        filled = "white" if one.verdict == "not resolved" else color
        axis.plot([low, high], [place, place], color=color, linewidth=2)
        axis.plot(one.gain.value, place, "o", color=color, markerfacecolor=filled)
    axis.axvline(0, color="0.7", linewidth=1, zorder=0)
    axis.set_yticks(range(len(contrasts)), [f"{one.after} − {one.before}" for one in contrasts])
    axis.invert_yaxis()
    axis.set_xlabel("gain of s_g, with 95 % interval; filled: resolved")
    axis.grid(alpha=0.3, axis="x")
    figure.savefig(path, format="png", dpi=100)


def draw_curves(curves: Mapping[str, NDArray[np.float64]], base: str, path: Path) -> None:
    """Write a PNG with the reward of every arm: mean of its seeds, and a band of their standard deviation.

    Args:
        curves: rewards by arm: [seeds, steps].
        base: arm whose mean is drawn behind every other.
        path: of the file.
    """
    from matplotlib.figure import Figure

    smooth = {arm: np.array([running_mean(one) for one in rewards.tolist()]) for arm, rewards in curves.items()}
    columns = min(_COLUMNS, len(smooth))
    lines = math.ceil(len(smooth) / columns)
    figure = Figure(figsize=(3 * columns, 2.4 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for (arm, rewards), axis in zip(smooth.items(), axes, strict=False):
        steps, mean = np.arange(1, rewards.shape[1] + 1), rewards.mean(0)
        if base in smooth and arm != base:
            axis.plot(steps, smooth[base].mean(0), color="0.6", linewidth=1, linestyle="--", label=base)
            axis.legend(fontsize=8, loc="lower right")
        if len(rewards) > 1:
            spread = rewards.std(0, ddof=1)
            axis.fill_between(steps, mean - spread, mean + spread, alpha=0.25, linewidth=0)
        axis.plot(steps, mean)
        axis.set_title(arm, fontsize=9)
        axis.grid(alpha=0.3)
    for axis in list(axes):  # panels without an arm
        axis.set_axis_off()
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("mean reward of the pictures drawn", fontsize=9)
    figure.savefig(path, format="png", dpi=100)
