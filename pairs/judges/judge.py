"""Interface of judges, which score how well pictures match prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image


@dataclass(frozen=True)
class Judgement:
    """Score in [0, 1] of one picture for one prompt, and the factors of that score if the judge has any."""

    score: float
    factors: Mapping[str, float] = field(default_factory=dict)


class Judge(Protocol):
    """Scores pictures against prompts; a failed judgement is None, never 0."""

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        """One judgement per picture and prompt."""
