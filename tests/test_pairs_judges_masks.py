"""Masks of pixels, against scipy's morphology."""

import numpy as np
import pytest
from scipy import ndimage

from pairs.judges.exact.masks import close, dilate, erode, fill_holes

SQUARE = np.ones((3, 3), bool)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_masks_are_those_of_scipy(share: float) -> None:
    rng = np.random.default_rng(1)
    for height, width in ((64, 64), (17, 30), (3, 3)):
        mask = rng.random((height, width)) < share
        assert np.array_equal(dilate(mask), ndimage.binary_dilation(mask, SQUARE))
        assert np.array_equal(erode(mask), ndimage.binary_erosion(mask, SQUARE))
        assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
        padded = np.pad(mask, 2)
        assert np.array_equal(close(mask), ndimage.binary_closing(padded, SQUARE)[2:-2, 2:-2])
