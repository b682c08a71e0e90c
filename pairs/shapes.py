"""Signed distances to the shapes of the procedural world."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairs.scene import Shape

Array = NDArray[np.floating[Any]]


def shape_distance(shape: Shape, x: Array, y: Array, radius: float | Array) -> Array:
    """Signed distance to a shape centred on the origin, negative inside.

    Args:
        shape: one of `SHAPES`.
        x: float32 horizontal offsets from the centre, in the unit of `radius`.
        y: float32 vertical offsets, downwards.
        radius: radius of the circle around the shape.

    Returns:
        Distances in the same unit; `x`, `y` and `radius` broadcast. A row of `x` and a column of `y` cost less than
        two whole grids.
    """
    x, y = x / radius, y / radius
    distance: Array
    if shape == "circle":
        distance = _length(x, y) - 0.96
    elif shape == "square":
        qx, qy = np.abs(x) - 0.78, np.abs(y) - 0.78
        distance = _length(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0)
    elif shape == "triangle":
        # three half planes at distance 0.56 from the centroid, which lies below the circle's centre
        below = y - 0.2
        distance = np.maximum(0.8660254 * np.abs(x) - 0.5 * below, below) - 0.56
    elif shape == "star":
        distance = _star_distance(x, y)
    else:
        distance = _heart_distance(x, y)
    result: Array = distance * np.asarray(radius, np.float32)
    return result


def _star_distance(x: Array, y: Array) -> Array:
    """Five-pointed star: fold the plane into half of one point by symmetry, then measure to its edge."""
    y = y - 0.06
    sector = 2 * np.pi / 5
    folded = np.abs(wrap(np.arctan2(x, -y) + sector / 2, sector) - sector / 2)
    length = _length(x, y)
    outer, inner = 1.02, 0.47
    ax, ay = inner * np.cos(sector / 2), inner * np.sin(sector / 2)
    ex, ey = outer - ax, -ay
    px, py = length * np.cos(folded) - ax, length * np.sin(folded) - ay
    t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    side = ex * py - ey * px  # negative inside
    distance: Array = np.copysign(np.hypot(px - t * ex, py - t * ey), side)
    return distance


def _heart_distance(x: Array, y: Array) -> Array:
    """Two discs over a wedge: distance to the arc from the notch to `touch`, or to the line from there to the tip."""
    x = np.abs(x)
    cx, cy, r = 0.44, -0.33, 0.47
    notch, touch, tip = (0.0, -0.495), (0.8008, -0.0288), (0.0, 0.92)
    dx, dy = x - cx, y - cy
    px, py = x - touch[0], y - touch[1]
    angle, length = np.arctan2(dy, dx), _length(dx, dy)
    along = (angle >= np.arctan2(notch[1] - cy, -cx)) & (angle <= np.arctan2(touch[1] - cy, touch[0] - cx))
    ends = np.minimum(_square(x, y - notch[1]), _square(px, py))
    arc = np.where(along, _square(length - r), ends)
    ex, ey = tip[0] - touch[0], tip[1] - touch[1]
    t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
    line = _square(px - t * ex, py - t * ey)
    below = px * ey - py * ex  # positive on the outer side of the line to the tip
    inside = (length < r) | ((below < 0) & (x < touch[0]) & (y > cy))
    nearest = np.sqrt(np.minimum(arc, line)).astype(np.float32)
    distance: Array = np.where(inside, -1.0, 1.0) * nearest
    return distance


def _square(x: Array, y: Array | float = 0.0) -> Array:
    """Squared length of float32 vectors, in float64."""
    result: Array = np.square(x, dtype=np.float64) + np.square(y, dtype=np.float64)
    return result


def _length(x: Array, y: Array) -> Array:
    """Length of float32 vectors: np.hypot in half of its time."""
    result: Array = np.sqrt(_square(x, y)).astype(np.float32)
    return result


def wrap(angle: Array, period: float) -> Array:
    """Remainder of float32 angles within two periods of 0: np.mod in a tenth of its time."""
    result: Array = angle - period * np.floor(angle / period)
    return result
