"""Differences between two prompts, word by word, and between two pictures, code by code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageFilter
from rapidfuzz.distance import Levenshtein

_WORD = re.compile(r"\w+|[^\w\s]+")
_VEIL = (255, 255, 255, 185)  # RGBA, over equal cells
_OUTLINE = (214, 20, 100, 255)  # around differing cells
_CLEAR = (0, 0, 0, 0)


@dataclass(frozen=True)
class Span:
    """Characters [start, stop) of a text."""

    start: int
    stop: int


def word_difference(first: str, second: str) -> tuple[list[Span], list[Span]]:
    """Find the words in which two texts differ, as spans of each text; neighbouring words form one span.

    Words are aligned with the fewest edits (Levenshtein 1966), so "a cat and a dog" and "a dog and a cat" differ in two
    words each. Case is ignored. A run of punctuation marks counts as one word.
    """
    words = [list(_WORD.finditer(text)) for text in (first, second)]
    changed = _changed(*([word.group().casefold() for word in row] for row in words))
    return _spans(words[0], changed[0]), _spans(words[1], changed[1])


def _changed(first: list[str], second: list[str]) -> tuple[set[int], set[int]]:
    """Indices, in each list, of the words that the fewest edits replace, delete or insert."""
    edits = Levenshtein.editops(first, second)
    return {e.src_pos for e in edits if e.tag != "insert"}, {e.dest_pos for e in edits if e.tag != "delete"}


def _spans(words: list[re.Match[str]], changed: set[int]) -> list[Span]:
    spans: list[Span] = []
    for index in sorted(changed):
        word = words[index]
        if index - 1 in changed:
            spans[-1] = Span(spans[-1].start, word.end())
        else:
            spans.append(Span(word.start(), word.end()))
    return spans


@dataclass(frozen=True)
class CodeDifference:
    """Cells in which the codes of two pictures differ, row by row."""

    rows: tuple[tuple[bool, ...], ...]

    @classmethod
    def of(cls, first: Sequence[int], second: Sequence[int]) -> "CodeDifference":
        """Compare the codes of two pictures of one model, each a square raster.

        Raises:
            ValueError: the numbers of codes differ or are not square.
        """
        side = round(len(first) ** 0.5)
        if len(first) != len(second) or side * side != len(first):
            raise ValueError(f"{len(first)} and {len(second)} codes are not two square rasters of one size")
        differs = [a != b for a, b in zip(first, second, strict=True)]
        return cls(tuple(tuple(differs[row * side : (row + 1) * side]) for row in range(side)))

    @property
    def share(self) -> float:
        """Share of the cells that differ, 0 to 1."""
        cells = [cell for row in self.rows for cell in row]
        return sum(cells) / len(cells)

    def overlay(self, size: int) -> Image.Image:
        """Mask to lay over either picture: differing cells clear and outlined, equal ones veiled; size × size RGBA."""
        side = len(self.rows)
        cells = Image.frombytes("L", (side, side), bytes(255 * cell for row in self.rows for cell in row))
        differs = cells.resize((size, size), Image.Resampling.NEAREST)
        width = max(1, size // 192)
        picture = Image.new("RGBA", (size, size), _VEIL)
        picture.paste(_OUTLINE, mask=differs.filter(ImageFilter.MaxFilter(2 * width + 1)))
        picture.paste(_CLEAR, mask=differs)
        return picture
