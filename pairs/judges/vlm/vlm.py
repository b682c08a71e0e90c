"""Interface of vision-language models, as judges ask them."""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image


class Vlm(Protocol):
    """A model that answers questions about pictures with yes or no."""

    def yes(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float | None]:
        """P(yes) / (P(yes) + P(no)) of the first token of each answer, in [0, 1]; None where there is no usable answer.

        Args:
            pictures: one for each question.
            questions: as the user writes them; the model's chat template is added.
        """
