"""Interface of generators, which draw prompts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from bench.pictures.picture import Part


@dataclass(frozen=True)
class Drawn:
    """A drawing.

    codes: that it was decoded from, if the generator has any.
    seed: that it was drawn with, if not the part's own.
    """

    part: Part
    image: Image.Image
    codes: Sequence[int] | None = None
    seed: int | None = None


class Generator(Protocol):
    """Draws prompts with seeds."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything, besides prompts and seeds, that decides the pictures; as JSON."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Device, dtype and versions, for the manifest."""

    def draw(self, parts: Sequence[Part]) -> Iterator[Drawn]:
        """Draw each part and yield it as soon as it is complete, in any order.

        Raises:
            GenerationError: one cannot be drawn; all others that were yielded are whole.
        """
