"""Where two prompts differ, word by word, and where two pictures differ, code by code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from PIL import Image

_WORD = re.compile(r"\w+|[^\w\s]")
_TINT = (230, 40, 120, 120)  # of cells that differ


@dataclass(frozen=True)
class Span:
    """Characters start … stop − 1 of a text."""

    start: int
    stop: int


def word_difference(first: str, second: str) -> tuple[list[Span], list[Span]]:
    """The words of each text that the other does not have in their place; neighbouring words are one span.

    Words are compared without regard to case; a punctuation mark is a word.
    """
    words = [list(_WORD.finditer(text)) for text in (first, second)]
    folded = [[word.group().casefold() for word in row] for row in words]
    spans: tuple[list[Span], list[Span]] = ([], [])
    for tag, a, b, c, d in SequenceMatcher(None, *folded, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for side, (start, stop) in enumerate(((a, b), (c, d))):
            if start < stop:
                spans[side].append(Span(words[side][start].start(), words[side][stop - 1].end()))
    return spans


@dataclass(frozen=True)
class CodeDifference:
    """Which cells of two pictures have different codes, row by row."""

    rows: tuple[tuple[bool, ...], ...]

    @classmethod
    def of(cls, first: Sequence[int], second: Sequence[int]) -> "CodeDifference":
        """From the codes of two pictures of one model, each a square raster.

        Raises:
            ValueError: they have not equally many, or not a square number.
        """
        side = round(len(first) ** 0.5)
        if len(first) != len(second) or side * side != len(first):
            raise ValueError(f"{len(first)} and {len(second)} codes are not two square rasters of one size")
        differs = [a != b for a, b in zip(first, second, strict=True)]
        return cls(tuple(tuple(differs[row * side : (row + 1) * side]) for row in range(side)))

    @property
    def share(self) -> float:
        """Of the cells, those that differ: 0 to 1."""
        cells = [cell for row in self.rows for cell in row]
        return sum(cells) / len(cells)

    def overlay(self, size: int) -> Image.Image:
        """A picture to lay over either of the two: tinted where they differ, clear elsewhere, size × size RGBA."""
        side = len(self.rows)
        small = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        for y, row in enumerate(self.rows):
            for x, cell in enumerate(row):
                if cell:
                    small.putpixel((x, y), _TINT)
        return small.resize((size, size), Image.Resampling.NEAREST)
