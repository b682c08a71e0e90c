"""Boxes of detected objects: overlap, and where one lies from another, with answers by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.detection.names import COLOURS, OBJECT_NAMES, object_name
from bench.detection.objects import Box, Relation, area, overlap, relations

ROOT = Path(__file__).parent.parent


def test_areas_and_overlaps_by_hand() -> None:
    """A pixel is added to each side: a box from 0 to 9 is 10 wide."""
    assert area(Box(0, 0, 9, 9)) == 100
    assert area(Box(5, 5, 0, 0)) == 0
    assert overlap(Box(0, 0, 9, 9), Box(0, 0, 9, 9)) == 1
    assert overlap(Box(0, 0, 9, 9), Box(5, 0, 14, 9)) == pytest.approx(50 / 150)
    assert overlap(Box(0, 0, 9, 9), Box(9, 9, 18, 18)) == pytest.approx(1 / 199)  # they share a pixel
    assert overlap(Box(0, 0, 9, 9), Box(10, 0, 19, 9)) == 0
    assert overlap(Box(5, 5, 0, 0), Box(5, 5, 0, 0)) == 0


def square(x: float, y: float, side: float = 10) -> Box:
    return Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-50, 0, ("left of",)),
        (50, 0, ("right of",)),
        (0, -50, ("above",)),
        (0, 50, ("below",)),
        (-50, -50, ("left of", "above")),
        (50, 50, ("right of", "below")),
        (50, 20, ("right of",)),  # a steep axis takes all of it
        (0, 0, ()),
        (2, 0, ()),  # within the margin: 0.1 × (10 + 10)
        (2, 2, ()),
        (4, 0, ()),  # shortened to 2, exactly half of 4
        (4.1, 0, ("right of",)),
        (-4.1, 0, ("left of",)),
    ],
)
def test_relations_by_hand(x: float, y: float, expected: tuple[Relation, ...]) -> None:
    assert relations(square(x, y), square(0, 0), margin=0.1) == expected


def test_relations_are_mirrored_when_boxes_are_swapped() -> None:
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for x in range(-60, 61, 7):
        for y in range(-60, 61, 7):
            one, other = square(x, y, 12), square(3, -2, 30)
            there = relations(one, other, margin=0.1)
            assert {opposite[relation] for relation in there} == set(relations(other, one, margin=0.1))


def test_larger_boxes_need_a_larger_distance() -> None:
    assert relations(square(30, 0), square(0, 0), margin=0.1) == ("right of",)
    assert relations(square(30, 0, 100), square(0, 0, 100), margin=0.1) == ()
    assert relations(square(30, 0, 100), square(0, 0, 100), margin=0) == ("right of",)


def test_names_are_genevals_and_labels_of_checkpoints_are_found() -> None:
    assert len(OBJECT_NAMES) == len(set(OBJECT_NAMES)) == 80
    assert len(COLOURS) == len(set(COLOURS)) == 10
    assert all(object_name(name) == name for name in OBJECT_NAMES)
    coco = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard", "tv": "tv"}
    older = {"motorbike": "motorcycle", "sofa": "couch", "diningtable": "dining table", "potted_plant": "potted plant"}
    assert {label: object_name(label) for label in coco | older} == coco | older
    assert object_name("wall-brick") is None


@pytest.mark.parametrize(
    "module", ["objects", "metadata", "verdict", "layout", "results", "scorer", "scoring", "summary"]
)
def test_what_needs_no_model_imports_no_torch(module: str) -> None:
    code = f"import sys, bench.detection.{module}; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 0, ended.stderr
