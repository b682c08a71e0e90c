"""Signed distances to shapes, against their outlines as polygons."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pairs.scene import SHAPES, Shape
from pairs.shapes import shape_distance, wrap

Points = NDArray[np.float64]


def star() -> Points:
    angles = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.02, 0.47)
    return np.stack([radii * np.sin(angles), 0.06 - radii * np.cos(angles)], axis=1)


def heart() -> Points:
    """Arc around (0.44, −0.33) from the notch to where it touches the line to the tip, and its mirror image."""
    first, last = np.arctan2(-0.165, -0.44), np.arctan2(0.3012, 0.3608)
    angles = np.linspace(first, last, 2000)
    right = np.stack([0.44 + 0.47 * np.cos(angles), -0.33 + 0.47 * np.sin(angles)], axis=1)
    return np.concatenate([right, [[0.0, 0.92]], right[::-1] * (-1, 1)])


def circle() -> Points:
    angles = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    return 0.96 * np.stack([np.cos(angles), np.sin(angles)], axis=1)


OUTLINES: dict[Shape, Callable[[], Points]] = {
    "circle": circle,
    "square": lambda: 0.78 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]),
    "triangle": lambda: np.array([[0, -0.92], [1.12 * np.sin(np.pi / 3), 0.76], [-1.12 * np.sin(np.pi / 3), 0.76]]),
    "star": star,
    "heart": heart,
}


def polygon_distance(outline: Points, points: Points) -> NDArray[np.float64]:
    """Distance to the nearest edge, negative where a ray to the right crosses an odd number of edges: [N]."""
    nearest, crossings = np.full(len(points), np.inf), np.zeros(len(points), int)
    x, y = points.T
    for (ax, ay), (bx, by) in zip(outline, np.roll(outline, -1, 0), strict=True):
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / max(ex * ex + ey * ey, 1e-30), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - t * ex, y - ay - t * ey))
        crosses = (ay > y) != (by > y)
        crossings += crosses & (x < ax + (y - ay) * ex / (ey if ey else 1.0))
    return np.where(crossings % 2 == 1, -nearest, nearest)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_those_to_the_outline(shape: Shape) -> None:
    points = np.random.default_rng(1).uniform(-1.3, 1.3, (2000, 2))
    expected = polygon_distance(OUTLINES[shape](), points)
    if shape == "triangle":  # three half planes: beyond a corner, the distance to the nearer line
        points, expected = points[expected < 0], expected[expected < 0]
    x, y = points.T.astype(np.float32)
    assert shape_distance(shape, x, y, 1.0) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_and_a_column_give_the_distances_of_the_whole_grid(shape: Shape) -> None:
    line = np.linspace(-0.3, 0.3, 40, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    radii = np.array([0.1, 0.2], np.float32)[:, None, None]
    assert np.array_equal(shape_distance(shape, line, line[:, None], radii), shape_distance(shape, x, y, radii))


def test_wrapped_angles_are_numpys_remainders() -> None:
    """Bit for bit, beside multiples of the period too: the exact judge's scores must not depend on the choice."""
    for period in (2 * np.pi, 2 * np.pi / 5):
        near = np.float32(period) * np.array([-1, 1, 2], np.float32)
        beside = [np.nextafter(near, np.float32(side)) for side in (-9, 9)]
        angles = np.random.default_rng(2).uniform(-2 * period, 2 * period, 100_000).astype(np.float32)
        for angle in (near, *beside, angles):
            assert np.array_equal(wrap(angle, period), angle % period)
