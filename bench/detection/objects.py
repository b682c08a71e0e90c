"""Detected objects, and the geometry of their boxes. Imports no torch."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Relation = Literal["left of", "right of", "above", "below"]


class Box(NamedTuple):
    """Box in pixels; a box around a mask ends one pixel behind it, on the right and at the bottom."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, eq=False)
class DetectedObject:
    """An object of a picture.

    Args:
        name: one of `bench.detection.names.OBJECT_NAMES`.
        box: around the object.
        score: confidence, from 0 to 1.
        mask: (height, width) of the picture; None if the detector has none.
    """

    name: str
    box: Box
    score: float
    mask: NDArray[np.bool_] | None = None


def area(box: Box) -> float:
    """Area of a box, 0 if it is inverted. GenEval adds a pixel to each side, as if the last pixel were inside."""
    return max(box.right - box.left + 1, 0) * max(box.bottom - box.top + 1, 0)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 if both are empty."""
    shared = area(
        Box(
            max(one.left, other.left),
            max(one.top, other.top),
            min(one.right, other.right),
            min(one.bottom, other.bottom),
        )
    )
    union = area(one) + area(other) - shared
    return shared / union if union else 0.0


def relations(one: Box, other: Box, *, margin: float) -> tuple[Relation, ...]:
    """Position of `one` relative to `other`: one relation, two near a diagonal, or none.

    The offset of the centres is shortened, along each axis, by `margin` times the sum of both boxes' sides. An axis
    counts if what is left of it exceeds half the length of the whole offset.

    Computed in float32, as the official evaluation does: a box on the threshold has the same relations.
    """
    corners = np.array([one, other], dtype=np.float32).reshape(2, 2, 2)  # box, corner, axis
    centres = corners.mean(axis=1)
    sides = np.abs(corners[:, 1] - corners[:, 0])
    offset = centres[0] - centres[1]
    distance = np.abs(offset) - margin * (sides[0] + sides[1])
    shortened = np.maximum(distance, 0) * np.sign(offset)
    if (np.abs(shortened) < 1e-3).all():
        return ()
    x, y = shortened / np.linalg.norm(offset)
    tests: dict[Relation, bool] = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return tuple(relation for relation, holds in tests.items() if holds)
