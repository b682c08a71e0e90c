"""Contact sheets of a run: the same prompts and seeds every few steps, and credit laid over samples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.params import SamplingParams
from pairs.contact_sheet import contact_sheet
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job

_SIDE = 120  # pixels of a picture on a sheet


def prompt_sheet(
    engine: Engine, pairs: Sequence[tuple[str, ...]], seeds: Sequence[int], params: SamplingParams
) -> Image.Image:
    """One row for each pair: pictures of its first prompt, then of its second with the same seeds."""
    prompts = [prompt for pair in pairs for prompt in pair]
    jobs = {Job(engine.janus.encode(p), None, tuple(seeds), params): i for i, p in enumerate(prompts)}
    blank = Image.new("RGB", (_SIDE, _SIDE), "white")
    pictures = [[blank] * len(seeds) for _ in prompts]
    for job, event in draw(engine, jobs):
        if isinstance(event, Finished):
            pictures[jobs[job]][event.index] = event.picture
    rows, captions, start = [], [], 0
    for pair in pairs:
        own = range(start, start + len(pair))
        rows.append([picture for i in own for picture in pictures[i]])
        captions.append([text for i in own for text in [prompts[i], *[""] * (len(seeds) - 1)]])
        start = own.stop
    return contact_sheet(rows, side=_SIDE, captions=captions)


def credit_sheet(pictures: Sequence[Image.Image], weights: Tensor, captions: Sequence[str]) -> Image.Image:
    """Pictures, and beside each the weight of its tokens: dark is 0, orange the mean, white three times the mean.

    Args:
        pictures: one row each.
        weights: float32 [N, tokens].
        captions: prompt of each picture.
    """
    grid = round(weights.shape[1] ** 0.5)
    maps = [Image.fromarray(_heat(row.view(grid, grid).numpy())) for row in weights.cpu()]
    shown = [image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST) for image in maps]
    rows = [list(row) for row in zip(pictures, shown, strict=True)]
    return contact_sheet(rows, side=_SIDE, captions=[[caption, ""] for caption in captions])


def _heat(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours of weights [grid, grid]: uint8 [grid, grid, 3]."""
    stops, colours = [0.0, 1.0, 3.0], [(20, 20, 60), (240, 140, 40), (255, 255, 255)]
    channels = [np.interp(weights, stops, [colour[channel] for colour in colours]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)
