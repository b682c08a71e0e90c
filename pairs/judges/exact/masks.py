"""Masks of pixels: grow, shrink, fill. Pixels beyond the border are not in a mask."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
CROSS = ndimage.generate_binary_structure(2, 1)  # a pixel and its four neighbours


def dilate(mask: Mask) -> Mask:
    """Grow a mask by one pixel in all eight directions: [h, w] → [h, w]."""
    columns = mask.copy()
    columns[:, 1:] |= mask[:, :-1]
    columns[:, :-1] |= mask[:, 1:]
    grown = columns.copy()
    grown[1:] |= columns[:-1]
    grown[:-1] |= columns[1:]
    return grown


def erode(mask: Mask) -> Mask:
    """Keep the pixels whose eight neighbours are all in a mask; those outside the picture are not."""
    columns = mask[:, :-2] & mask[:, 1:-1] & mask[:, 2:]
    kept = np.zeros_like(mask)
    kept[1:-1, 1:-1] = columns[:-2] & columns[1:-1] & columns[2:]
    return kept


def close(mask: Mask) -> Mask:
    """Close gaps of up to two pixels: grow, then shrink."""
    return erode(dilate(np.pad(mask, 1)))[1:-1, 1:-1]


def fill_holes(mask: Mask) -> Mask:
    """Add the pixels that no path of neighbours outside the mask links to the border: [h, w] → [h, w]."""
    outside = np.ones((mask.shape[0] + 2, mask.shape[1] + 2), bool)
    outside[1:-1, 1:-1] = ~mask
    labels, _ = ndimage.label(outside, CROSS)
    filled: Mask = labels[1:-1, 1:-1] != labels[0, 0]
    return filled
