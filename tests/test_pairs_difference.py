"""Where prompts and pictures differ."""

import numpy as np
import pytest

from pairs.difference import CodeDifference, Span, word_difference


def words(first: str, second: str) -> tuple[list[str], list[str]]:
    a, b = word_difference(first, second)
    return [first[s.start : s.stop] for s in a], [second[s.start : s.stop] for s in b]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("three red circles", "four red circles", (["three"], ["four"])),
        ("a red circle", "a red circle", ([], [])),
        ("A red circle", "a Red circle", ([], [])),
        ("a circle", "a red circle", ([], ["red"])),
        ("a cat and a dog", "a dog and a cat", (["cat", "dog"], ["dog", "cat"])),
        ('a sign that says "FOX"', 'a sign that says "BOX"', (["FOX"], ["BOX"])),
        ("two dark blue stars", "two light green stars", (["dark blue"], ["light green"])),
        ("", "a star", ([], ["a star"])),
        ("ein roter Kreis", "ein größerer Kreis", (["roter"], ["größerer"])),
        ("三 个 圆", "四 个 圆", (["三"], ["四"])),
    ],
)
def test_words_that_differ(first: str, second: str, expected: tuple[list[str], list[str]]) -> None:
    assert words(first, second) == expected
    assert words(second, first) == expected[::-1]


def test_neighbouring_words_are_one_span() -> None:
    assert word_difference("a big red ball", "a ball")[0] == [Span(2, 9)]


def test_codes_that_differ() -> None:
    difference = CodeDifference.of((1, 2, 3, 4), (1, 9, 3, 8))
    assert difference.rows == ((False, True), (False, True))
    assert difference.share == 0.5


def test_the_overlay_leaves_differing_cells_clear_and_outlines_them() -> None:
    """Only the middle of 3 × 3 cells differs: it is clear, with an outline of one pixel; the rest is one pale tone."""
    overlay = np.array(CodeDifference.of(range(9), (0, 1, 2, 3, 9, 5, 6, 7, 8)).overlay(24))
    assert overlay.shape == (24, 24, 4)
    assert not overlay[8:16, 8:16].any()
    around = np.zeros((24, 24), dtype=bool)
    around[7:17, 7:17] = True
    around[8:16, 8:16] = False
    line, pale = overlay[around], overlay[0, 0]
    assert (line == line[0]).all()
    assert line[0, 3] == 255
    elsewhere = np.ones((24, 24), dtype=bool)
    elsewhere[7:17, 7:17] = False
    assert (overlay[elsewhere] == pale).all()
    assert 100 < pale[3] < 255
    shift = np.array(CodeDifference.of((1, 2, 3, 4), (1, 9, 3, 8)).overlay(384))
    assert not shift[:, 192:].any()  # clear to the picture's edge
    assert (shift[:, 190:192] == line[0]).all()
    assert (shift[:, :190] == pale).all()


@pytest.mark.parametrize(("first", "second"), [((1, 2, 3), (1, 2, 3)), ((1, 2, 3, 4), (1,))])
def test_rasters_of_different_sizes_are_refused(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not two square rasters"):
        CodeDifference.of(first, second)
