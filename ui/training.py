"""Curves of the training run that the server follows, beside the pictures of its newest checkpoint."""

from collections.abc import Sequence
from html import escape

import gradio as gr

from pairs.smoothing import running_mean
from ui.api import Api, ApiFailure, Curve

_SECONDS = 5  # between updates; a run writes its values with each checkpoint
_SHOWN = ("reward", "s_a", "s_g", "loss", "live samples", "kl", "entropy", "gradient norm", "ground truth logprob")
_WIDTH, _HEIGHT = 240, 72  # of a plot, in its own units


def build_training(url: str, key: gr.Textbox) -> None:
    """Build the section of the page; it is hidden while the server follows no run."""
    with gr.Accordion("Training", open=True, visible=False, elem_id="training") as section:
        plots = gr.HTML(elem_id="curves")

    async def update(given: str | None) -> list[object]:
        try:
            curve = await Api(url, given or None).training()
        except ApiFailure:
            return [gr.skip()] * 3
        if curve is None:
            return [gr.skip(), gr.skip(), gr.Timer(active=False)]
        return [gr.update(visible=True, label=f"Training: {curve.run}"), curves(curve), gr.skip()]

    timer = gr.Timer(_SECONDS)
    timer.tick(update, key, [section, plots, timer], show_progress="hidden", queue=False)


def curves(curve: Curve) -> str:
    """HTML of the run's most telling values, a plot for each."""
    if not curve.steps:
        return "<p>No checkpoint yet.</p>"
    shown = [name for name in _SHOWN if any(value is not None for value in curve.values.get(name, ()))]
    plots = "".join(_plot(name, curve.steps, curve.values[name]) for name in shown)
    return f"<p>{curve.steps[-1]} steps</p><div class='curves'>{plots}</div>"


def _plot(name: str, steps: Sequence[int], values: Sequence[float | None]) -> str:
    known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    numbers = [value for _, value in known]
    low, high = min(numbers), max(numbers)
    averages = running_mean(numbers)
    smooth = [(step, average) for (step, _), average in zip(known, averages, strict=True)]
    return (
        f"<figure><figcaption>{escape(name)} <b>{averages[-1]:.3g}</b></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(name)} by step"><polyline class="raw" points="{points(known, low, high)}"/>'
        f'<polyline points="{points(smooth, low, high)}"/></svg>'
        f"<small>{low:.3g} to {high:.3g}</small></figure>"
    )


def points(known: Sequence[tuple[int, float]], low: float, high: float) -> str:
    """Points of a line in a plot that goes from the first step to the last, and from `low` to `high`."""
    first, last = known[0][0], known[-1][0]
    return " ".join(
        f"{_WIDTH * (step - first) / max(1, last - first):.1f},{_HEIGHT * (1 - (value - low) / (high - low or 1)):.1f}"
        for step, value in known
    )
