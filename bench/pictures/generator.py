"""Interface of generators, which draw prompts."""

from collections import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

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


Drawings: TypeAlias = "abc.Generator[Drawn, None, None]"


class Generator(Protocol):
    """Draws prompts with seeds."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything, besides prompts and seeds, that decides the pictures; as JSON."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Device, dtype and versions, for the manifest."""

    def draw(self, parts: Sequence[Part]) -> Drawings:
        """Draw each part and yield it as soon as it is complete, in any order.

        Closing the iterator ends at once what it has not yielded yet.

        Raises:
            GenerationError: one cannot be drawn; all others that were yielded are whole.
        """
