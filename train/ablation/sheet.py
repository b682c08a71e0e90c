"""Pictures of a few test cases by several arms, side by side."""

import numpy as np
from PIL import Image

from model.checkpoints.load import load
from pairs.contact_sheet import contact_sheet
from pairs.miniature import miniature_cases
from serve.engine.engine import Engine
from train.ablation.ablation import Ablation
from train.ablation.run import PRIMARY, SETTINGS
from train.ablation.scores import pictures_of, score_cases

_CASES = 6
_SIDE = 150  # pixels of a picture


def arms_sheet(ablation: Ablation, seed: int) -> Image.Image:
    """Draw the same cases by every arm: a row for each prompt, two pictures of each arm with their scores.

    Raises:
        RecipeError: the trained weights of an arm are not among the ablation's runs.
    """
    every = miniature_cases("test")
    cases = [every[number] for number in np.linspace(0, len(every) - 1, _CASES).astype(int)]
    checkpoints = {arm: ablation.checkpoint(arm, seed) for arm in ablation.arms}
    rows: list[list[Image.Image]] = [[] for _ in cases for _ in (0, 1)]
    captions: list[list[str]] = [[] for _ in rows]
    for arm, checkpoint in checkpoints.items():
        engine = Engine(load(checkpoint, device="cpu"), slots=4 * _CASES)
        scores = score_cases(engine, cases, SETTINGS[PRIMARY])
        for number in range(_CASES):
            pictures = pictures_of(engine, scores, number)
            for which in (0, 1):
                row = 2 * number + which
                rows[row] += pictures[2 * which : 2 * which + 2]
                captions[row] += [f"{arm}  {' and '.join(f'{score:.2f}' for score in scores.own[number, which])}", ""]
    titles = [prompt for case in cases for prompt in case.prompts]
    return contact_sheet(rows, side=_SIDE, captions=captions, titles=titles)
