"""Where two prompts differ, word by word, and where two pictures differ, code by code."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageFilter

_WORD = re.compile(r"\w+|[^\w\s]+")
_VEIL = (255, 255, 255, 185)  # over cells that are the same
_OUTLINE = (214, 20, 100, 255)  # of those that differ, which stay as they are
_CLEAR = (0, 0, 0, 0)


@dataclass(frozen=True)
class Span:
    """Characters start … stop − 1 of a text."""

    start: int
    stop: int


def word_difference(first: str, second: str) -> tuple[list[Span], list[Span]]:
    """The words of each text that the other does not have in their place; neighbouring words are one span.

    Words are aligned by the fewest changes (Levenshtein 1966), so that "a cat and a dog" and "a dog and
    a cat" differ in two words each. Case does not count; punctuation marks that stand together are a word.
    """
    words = [list(_WORD.finditer(text)) for text in (first, second)]
    changed = _changed(*([word.group().casefold() for word in row] for row in words))
    return _spans(words[0], changed[0]), _spans(words[1], changed[1])


def _changed(first: list[str], second: list[str]) -> tuple[set[int], set[int]]:
    """Places of the words that are replaced, left out or put in by the fewest changes."""
    costs = [[i + j if i == 0 or j == 0 else 0 for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i, a in enumerate(first, start=1):
        for j, b in enumerate(second, start=1):
            costs[i][j] = min(costs[i - 1][j - 1] + (a != b), costs[i - 1][j] + 1, costs[i][j - 1] + 1)
    i, j = len(first), len(second)
    places: tuple[set[int], set[int]] = (set(), set())
    while i or j:
        if i and j and costs[i][j] == costs[i - 1][j - 1] + (first[i - 1] != second[j - 1]):
            i, j = i - 1, j - 1
            if first[i] != second[j]:
                places[0].add(i)
                places[1].add(j)
        elif i and costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
            places[0].add(i)
        else:
            j -= 1
            places[1].add(j)
    return places


def _spans(words: list[re.Match[str]], places: set[int]) -> list[Span]:
    spans: list[Span] = []
    for place in sorted(places):
        word = words[place]
        if place - 1 in places:
            spans[-1] = Span(spans[-1].start, word.end())
        else:
            spans.append(Span(word.start(), word.end()))
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
        """A picture to lay over either of the two: clear where they differ, outlined, pale elsewhere; size × size RGBA."""
        side = len(self.rows)
        cells = Image.frombytes("L", (side, side), bytes(255 * cell for row in self.rows for cell in row))
        differs = cells.resize((size, size), Image.Resampling.NEAREST)
        width = max(1, size // 192)
        picture = Image.new("RGBA", (size, size), _VEIL)
        picture.paste(_OUTLINE, mask=differs.filter(ImageFilter.MaxFilter(2 * width + 1)))
        picture.paste(_CLEAR, mask=differs)
        return picture
