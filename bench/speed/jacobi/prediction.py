"""Prediction of what windows gain, from recorded confirmation and the seconds that steps take."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.speed.jacobi.recording import WIDTHS, Additions, Recording
from bench.speed.jacobi.step_cost import StepSeconds
from model.sampler.state import MOST_FED

_BATCHES = 32  # drawn at random; their mean is within a hundredth


class Prediction(NamedTuple):
    """The best width while all images run, and the time of single places ÷ that of windows."""

    width: int
    ratio: float


def predict(recorded: Recording, images: int, cost: StepSeconds, *, tokens: int, own: float = 0.0) -> Prediction:
    """Draw batches of images at random, with as many codes a window as recorded.

    With windows images end apart, and those that are left have wider ones. The width is the best by `cost` alone, from which the
    engine chooses, too.

    Args:
        recorded: confirmation of the model, or of one that stands for it.
        images: of a batch, guided.
        cost: seconds that decoder and sampler take for a step of one image and of `images`, of each width.
        tokens: codes of an image. The first of them comes with its prompt.
        own: seconds of a step that the engine takes for itself.
    """
    codes = {width: recorded.codes_per_step(width).value for width in WIDTHS}
    seconds = {running: _seconds(cost, images, running) for running in range(1, images + 1)}
    widths = {running: min(steps, key=lambda width: steps[width] / codes[width]) for running, steps in seconds.items()}
    if widths[images] == 1:
        return Prediction(1, 1.0)
    additions, taken = Additions(recorded, tokens), 0.0
    for _ in range(_BATCHES):
        drawn = [1] * images
        while running := [image for image in range(images) if drawn[image] < tokens]:
            width = widths[len(running)]
            taken += seconds[len(running)][width] + own
            for image in running:
                drawn[image] += additions.draw(width, drawn[image])
    plain = (tokens - 1) * (cost[images, 1] + own)
    return Prediction(widths[images], plain * _BATCHES / taken)


def _seconds(cost: StepSeconds, images: int, running: int) -> dict[int, float]:
    """Seconds of a step of the images that still run, by width.

    Numbers between one and `images` are not measured: their seconds lie between those of one and of all images that are fed as many
    codes.
    """
    widths = [width for width in WIDTHS if 2 * running * width <= MOST_FED]

    def of(count: int) -> NDArray[np.float64]:
        measured = sorted((2 * count * width, taken) for (number, width), taken in cost.items() if number == count)
        sizes, taken = np.array(measured).T
        seconds: NDArray[np.float64] = np.interp([2 * running * width for width in widths], sizes, taken)
        return seconds

    share = (running - 1) / (images - 1) if images > 1 else 0.0
    return dict(zip(widths, ((1 - share) * of(1) + share * of(images)).tolist(), strict=True))
