"""Contact sheets of a run: the same prompts and seeds every few steps, and where the credit of samples went."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.params import SamplingParams
from pairs.contact_sheet import contact_sheet
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job
from train.grpo.rollout.samples import Samples

_SIDE = 120  # pixels of a picture on a sheet
_RED = np.array([255.0, 30.0, 30.0])
_STRONGEST = 4.0  # credit weight that is drawn in full red; the mean is 1
_CREDIT_ROWS = 8


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


def credit_sheet(engine: Engine, samples: Samples, advantages: Tensor, credit: Mapping[int, Tensor]) -> Image.Image:
    """One row for each of the samples with the largest advantages: the picture, and its credit weights over it in red.

    Args:
        engine: decodes the pictures.
        samples: of a step.
        advantages: float32 [N].
        credit: weights [tokens] of at least one sample, by number.
    """
    chosen = sorted(credit, key=lambda number: -abs(float(advantages[number])))[:_CREDIT_ROWS]
    prompts, grid = samples.prompts(), engine.janus.grid
    rows, captions = [], []
    for number, pixels in zip(chosen, engine.image_tokenizer.images(samples.codes[chosen]).cpu().numpy(), strict=True):
        picture = Image.fromarray(pixels)
        rows.append([picture, credit_overlay(picture, credit[number].reshape(grid, grid))])
        captions.append([f"{float(advantages[number]):+.2f}  {prompts[number]}", ""])
    return contact_sheet(rows, side=2 * _SIDE, captions=captions)


def credit_overlay(picture: Image.Image, weights: Tensor) -> Image.Image:
    """A picture, the redder where its credit weights [grid, grid] are larger."""
    share = (weights.float() / _STRONGEST).clamp(0, 1)[None, None]
    share = torch.nn.functional.interpolate(share, size=picture.size[::-1], mode="nearest")[0, 0, :, :, None]
    grey = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float64)
    return Image.fromarray((grey + (_RED - grey) * share.numpy()).round().astype(np.uint8))
