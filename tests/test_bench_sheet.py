"""The contact sheet: the place of each picture."""

from pathlib import Path

import numpy as np
from PIL import Image

from bench.world.sheet import PAIRS, pair_sheet
from model.checkpoints.load import load
from model.generate import generate
from model.image_tokenizer import ImageTokenizer


def test_prompts_of_a_pair_stand_side_by_side_with_equal_seeds(small_folder: Path) -> None:
    """A line holds two pairs, so the third pair is below the first; expected pictures come from the reference loop."""
    janus = load(small_folder, device="cpu")
    sheet = np.asarray(pair_sheet(janus, seeds=(5, 6)))
    prompts = [prompt for pair in PAIRS for prompt in pair for _ in range(2)]
    every = ImageTokenizer(janus).images(generate(janus, prompts, seeds=[5, 6] * len(prompts[::2]))).numpy()
    pictures = every[[0, 2, 8, 10]]  # seed 5 of both prompts of the first pair and of the third
    enlarged = [np.asarray(Image.fromarray(p).resize((128, 128), Image.Resampling.LANCZOS)) for p in pictures]
    found = {}
    for number, picture in enumerate(enlarged):
        places = np.argwhere((sheet[:, :, 0] == picture[0, 0, 0]) & (sheet[:, :, 1] == picture[0, 0, 1]))
        found[number] = {
            (int(x), int(y)) for y, x in places if np.array_equal(sheet[y : y + 128, x : x + 128], picture)
        }
    first, second, below, beside = (found[number] for number in range(4))
    assert all(len(places) == 1 for places in found.values())
    (x, y), (right, _), (_, lower) = first.copy().pop(), second.copy().pop(), below.copy().pop()
    assert second == {(right, y)}
    assert below == {(x, lower)}
    assert beside == {(right, lower)}
    assert right > x + 2 * 128
    assert lower > y + 128
