"""Scores of a checkpoint's pictures of fixed pairs of prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model.params import SamplingParams
from pairs.caption import parse
from pairs.judges.exact.exact_judge import compare
from pairs.judges.exact.reading import read
from pairs.paircomp import Case
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job
from train.errors import TrainingError


@dataclass(frozen=True)
class CaseScores:
    """Scores of n pictures of both prompts of C cases.

    own: float [C, 2, n], of each picture for its own prompt.
    other: float [C, 2, n], for the other prompt of its case.
    codes: int [C, 2, n, tokens].
    """

    own: NDArray[np.float64]
    other: NDArray[np.float64]
    codes: NDArray[np.int64]

    @property
    def s_a(self) -> NDArray[np.float64]:
        """Arithmetic mean of each case's 2 n scores (paper, section 3.2): [C]."""
        return np.asarray(self.own.mean((1, 2)))

    @property
    def s_g(self) -> NDArray[np.float64]:
        """Geometric mean of each case's 2 n scores (paper, section 3.2): [C]."""
        count = self.own[0].size
        return np.asarray(self.own.prod((1, 2)) ** (1 / count))

    @property
    def noticed(self) -> NDArray[np.bool_]:
        """Whether all pictures of a case fit their own prompt better than the other one: [C]."""
        return np.asarray((self.own > self.other).all((1, 2)))

    @property
    def diversity(self) -> float:
        """Share of the codes in which two pictures of one prompt differ, averaged over all prompts."""
        first, second = self.codes[:, :, 0], self.codes[:, :, 1]
        return float((first != second).mean())


def score_cases(
    engine: Engine, cases: Sequence[Case], params: SamplingParams, *, seeds: Sequence[int] = (0, 1)
) -> CaseScores:
    """Draw and judge pictures of all cases of the procedural world; every prompt gets the same seeds.

    Raises:
        TrainingError: a picture cannot be drawn, since a logit is not finite.
    """
    shape = (len(cases), 2, len(seeds))
    own, other = np.zeros(shape), np.zeros(shape)
    codes = np.zeros((*shape, engine.janus.image_tokens), dtype=np.int64)
    statements = [[parse(prompt) for prompt in case.prompts] for case in cases]
    places = {
        Job(engine.janus.encode(prompt), None, tuple(seeds), params): (number, which)
        for number, case in enumerate(cases)
        for which, prompt in enumerate(case.prompts)
    }
    for job, event in draw(engine, places):
        number, which = places[job]
        if not isinstance(event, Finished):
            raise TrainingError(f"{cases[number].prompts[which]!r} cannot be drawn: {event}")
        place = (number, which, event.index)
        reading = read(event.picture)
        own[place] = compare(reading, statements[number][which]).score
        other[place] = compare(reading, statements[number][1 - which]).score
        codes[place] = event.codes
    return CaseScores(own, other, codes)


def pictures_of(engine: Engine, scores: CaseScores, number: int) -> list[Image.Image]:
    """The pictures of a case, those of its first prompt first."""
    flat = torch.from_numpy(scores.codes[number].reshape(-1, scores.codes.shape[-1]))
    return [Image.fromarray(pixels) for pixels in engine.image_tokenizer.images(flat).cpu().numpy()]
