"""Objects from logits made by hand: scores, boxes, padding, and several classes for one query."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.detection.instances import instances
from bench.detection.objects import Box, DetectedObject

NAMES = ("dog", "cat", None)
SIDE = 32


def logits_of(*rows: tuple[float, float, float, float]) -> Tensor:
    """Class logits of queries from the probabilities of dog, cat, a class without name, and no object."""
    return torch.tensor(rows).log()


def mask_of(left: int, top: int, right: int, bottom: int, *, width: int = 8) -> Tensor:
    """Logits of a rectangle, in cells of 4 × 4 pixels: 20 inside, −20 outside."""
    mask = torch.full((8, width), -20.0)
    mask[top:bottom, left:right] = 20
    return mask


def found(class_logits: Tensor, masks: list[Tensor], least: float = 0.0) -> list[DetectedObject]:
    return instances(
        class_logits,
        torch.stack(masks),
        names=NAMES,
        padded=(SIDE, SIDE),
        scaled=(SIDE, SIDE),
        size=(SIDE, SIDE),
        least=least,
    )


def test_a_score_is_the_classes_probability_times_the_mean_probability_of_the_mask() -> None:
    (dog,) = found(logits_of((0.8, 0.05, 0.05, 0.1)), [torch.full((8, 8), math.log(3))], least=0.1)
    assert dog.name == "dog"
    assert dog.score == pytest.approx(0.8 * 0.75, abs=1e-6)  # sigmoid(log 3) = 3/4
    assert dog.box == Box(0, 0, SIDE, SIDE)
    assert dog.mask is not None
    assert dog.mask.all()


def test_only_pixels_inside_the_mask_count_for_its_quality() -> None:
    """Outside, the mask has a probability of a quarter, which lowers nothing."""
    mask = torch.full((SIDE, SIDE), -math.log(3))
    mask[:16, :16] = math.log(3)
    (dog,) = found(logits_of((0.8, 0.05, 0.05, 0.1)), [mask], least=0.1)
    assert dog.box == Box(0, 0, 16, 16)
    assert dog.score == pytest.approx(0.8 * 0.75, abs=1e-6)


def test_a_box_encloses_the_mask_and_ends_behind_it() -> None:
    """Between equal and opposite logits the mask ends at the edge of the cell; at a corner, (5/8)² < 1/2 is outside."""
    (dog,) = found(logits_of((0.8, 0.05, 0.05, 0.1)), [mask_of(2, 1, 5, 7)], least=0.1)
    assert dog.box == Box(8, 4, 20, 28)
    assert dog.mask is not None
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[4:28, 8:20] = True
    expected[np.ix_([4, 27], [8, 19])] = False
    assert (dog.mask == expected).all()


def test_a_query_may_be_several_objects_and_classes_without_name_are_left_out() -> None:
    objects = found(logits_of((0.3, 0.4, 0.2, 0.1), (0.05, 0.05, 0.85, 0.05)), [mask_of(0, 0, 8, 8)] * 2)
    assert [(one.name, round(one.score, 4)) for one in objects][:2] == [("cat", 0.4), ("dog", 0.3)]
    assert len(objects) == 4


def test_at_most_100_pairs_of_query_and_class_are_candidates() -> None:
    """The pair without a name takes one of the places, as it does in the official detector."""
    many = logits_of(*[(0.4 - n / 1000, 0.3 - n / 1000, 0.0001, 0.2) for n in range(80)], (0.01, 0.01, 0.9, 0.08))
    objects = found(many, [mask_of(0, 0, 8, 8)] * 81)
    assert len(objects) == 99
    assert [one.name for one in objects].count("dog") == 80


def test_an_empty_mask_is_no_object() -> None:
    assert found(logits_of((0.9, 0.03, 0.03, 0.04)), [torch.full((8, 8), -1.0)]) == []


def test_a_least_score_drops_objects_and_changes_no_other() -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(30, 4, generator=generator) * 2
    masks = list(torch.randn(30, 8, 8, generator=generator) * 3)
    everything = found(classes, masks)
    for least in (0.2, 0.45, 0.7):
        expected = [one for one in everything if one.score > least]
        left = found(classes, masks, least)
        assert [(one.name, one.box, one.score) for one in left] == [(one.name, one.box, one.score) for one in expected]
        assert 0 < len(left) < len(everything)


def test_padding_is_cut_off_before_masks_are_scaled() -> None:
    """The picture fills the left half of the network's input; it is twice as large as there."""

    def objects(mask: Tensor) -> list[DetectedObject]:
        return instances(
            logits_of((0.8, 0.05, 0.05, 0.1)),
            mask[None],
            names=NAMES,
            padded=(SIDE, 2 * SIDE),
            scaled=(SIDE, SIDE),
            size=(2 * SIDE, 2 * SIDE),
            least=0.1,
        )

    assert objects(mask_of(9, 0, 16, 8, width=16)) == []  # in the padding alone
    (dog,) = objects(mask_of(4, 2, 16, 4, width=16))  # half in the padding
    assert dog.box == Box(32, 16, 64, 32)
    assert dog.mask is not None
    assert dog.mask.shape == (64, 64)
