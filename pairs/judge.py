"""What a judge is: something that says how well a picture matches a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image


@dataclass(frozen=True)
class Judgement:
    """How well one picture matches one prompt, in [0, 1], and what the number is made of."""

    score: float
    factors: Mapping[str, float] = field(default_factory=dict)


class Judge(Protocol):
    """Scores pictures against prompts; a judgement that failed is None, never 0."""

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        """One judgement for each picture and its prompt."""
