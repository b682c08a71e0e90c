"""Fit shapes to silhouettes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np

from pairs.judges.exact.masks import Mask
from pairs.judges.exact.pixels import SIZE
from pairs.render import coverage
from pairs.scene import SHAPES, Shape
from pairs.shapes import Array, shape_distance


@dataclass(frozen=True)
class Fit:
    """A shape fitted to a silhouette: its place, overlap in [0, 1], and signed distances [h, w] of its window."""

    x: float
    y: float
    radius: float
    overlap: float
    distance: Array


def fit_shapes(silhouette: Mask, x: Array, y: Array) -> dict[Shape, Fit]:
    """Fit each shape to a silhouette: place it by area and centroid, then search nearby for the most overlap.

    Args:
        silhouette: mask of a window, [h, w].
        x, y: the window's part of the grid, [1, w] and [h, 1].
    """
    rows, columns = np.nonzero(silhouette)
    if not len(rows):
        middle = float(x.mean()), float(y.mean())
        return {shape: _best_fit(shape, silhouette, x, y, middle[0], [(middle[1], 0.1)]) for shape in SHAPES}
    cx, cy = float(x[0, columns].mean()), float(y[rows, 0].mean())
    fits = {}
    for shape, (unit_area, unit_y) in _unit_moments().items():
        radius = sqrt(len(rows) / SIZE**2 / unit_area)
        top = cy - unit_y * radius
        tried = [(top + dy / SIZE, radius * scale) for scale in (0.95, 1.0, 1.05) for dy in (-0.6, 0.0, 0.6)]
        fits[shape] = _best_fit(shape, silhouette, x, y, cx, tried)
    return fits


@lru_cache(maxsize=1)
def _unit_moments() -> dict[Shape, tuple[float, float]]:
    """Area of each shape of radius 1, and y of its centroid."""
    line = np.linspace(-1.2, 1.2, 481, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    cell = float(line[1] - line[0]) ** 2
    moments = {}
    for shape in SHAPES:
        inside = shape_distance(shape, x, y, 1.0) < 0
        moments[shape] = (float(inside.sum()) * cell, float(y[inside].mean()))
    return moments


def _best_fit(
    shape: Shape, silhouette: Mask, x: Array, y: Array, cx: float, tried: Sequence[tuple[float, float]]
) -> Fit:
    """Fit of the centre's y and the radius, among those to be tried, that overlaps most with a silhouette."""
    ys, radii = np.array(tried, np.float32).T[:, :, None, None]
    distances = shape_distance(shape, x - np.float32(cx), y - ys, radii)
    drawn = coverage(distances, SIZE)
    common, united = (part(drawn, silhouette).reshape(len(tried), -1).sum(1) for part in (np.minimum, np.maximum))
    overlaps = common / united
    best = int(overlaps.argmax())
    return Fit(cx, *tried[best], float(overlaps[best]), distances[best])
