"""Stroke font: capital letters and digits as polylines on a 3 × 5 lattice, scalable to any size."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# Polylines, separated by commas, of points "xy": x from 0 (left) to 2, y from 0 (top) to 4.
_STROKES = {
    "A": "04 01 10 21 24, 02 22", "B": "00 04 14 23 12 02, 12 21 10 00", "C": "21 10 01 03 14 23",
    "D": "00 04 14 23 21 10 00", "E": "20 00 04 24, 02 12", "F": "20 00 04, 02 12",
    "G": "20 10 01 03 14 24 22 12", "H": "00 04, 20 24, 02 22", "I": "00 20, 10 14, 04 24",
    "J": "20 23 14 03", "K": "00 04, 20 02 24", "L": "00 04 24", "M": "04 00 12 20 24",
    "N": "04 00 24 20", "O": "10 01 03 14 23 21 10", "P": "04 00 10 21 12 02",
    "Q": "10 01 03 14 23 21 10, 13 24", "R": "04 00 10 21 12 02, 12 24", "S": "20 10 01 02 22 23 14 04",
    "T": "00 20, 10 14", "U": "00 03 14 23 20", "V": "00 14 20", "W": "00 04 12 24 20",
    "X": "00 24, 20 04", "Y": "00 12 20, 12 14", "Z": "00 20 04 24",
    "0": "00 20 24 04 00, 20 04", "1": "01 10 14, 04 24", "2": "00 20 22 02 04 24", "3": "00 20 24 04, 02 22",
    "4": "00 02 22, 20 24", "5": "20 00 02 22 24 04", "6": "20 00 04 24 22 02", "7": "00 20 13 14",
    "8": "00 20 24 04 00, 02 22", "9": "22 02 00 20 24 04",
}  # fmt: skip

GLYPHS = tuple(_STROKES)


def segments(glyph: str) -> NDArray[np.float64]:
    """Line segments of a glyph: [S, 2 ends, 2 (x, y)], centred, x and y in [−1, 1], y downwards."""
    lines = []
    for stroke in _STROKES[glyph].split(","):
        points = [(int(p[0]) - 1.0, int(p[1]) / 2 - 1.0) for p in stroke.split()]
        lines += list(pairwise(points))
    return np.array(lines)
