"""Measurements of pixels: size, chroma and hue, and a ramp from measurements to scores."""

from functools import lru_cache

import numpy as np
from PIL import Image

from pairs.render import PALETTE
from pairs.scene import COLOURS, Colour
from pairs.shapes import Array, wrap

SIZE = 64  # pictures are read at this size


def ramp(value: float, low: float, high: float) -> float:
    """Map `low` to 0 and `high` to 1, linear between and constant beyond; `low` may be the larger."""
    return float(min(max((value - low) / (high - low), 0), 1))  # np.clip takes ten times as long


def to_planes(image: Image.Image) -> Array:
    """Convert a picture of any size to its red, green and blue planes: [3, SIZE, SIZE], float32 in 0–255."""
    rgb = image.convert("RGB")
    if rgb.size != (SIZE, SIZE):
        rgb = rgb.resize((SIZE, SIZE), Image.Resampling.BOX)
    return planes(np.asarray(rgb, np.float32))


def planes(rgb: Array) -> Array:
    """Move channels to the front, where reductions over them are fast: [h, w, 3] → [3, h, w]."""
    return np.ascontiguousarray(np.moveaxis(rgb, -1, 0))


def chroma(rgb: Array) -> Array:
    """Opponent channels red − green and yellow − blue: [3, ...] → [2, ...]; grey is (0, 0)."""
    r, g, b = rgb
    return np.stack([r - g, (r + g) / 2 - b])


def hue_scores(colours: Array) -> dict[Colour, float]:
    """Score each palette colour by the share of pixels, chroma [2, N], whose hue is nearest to its own."""
    if colours.size == 0:
        return dict.fromkeys(COLOURS, 0.0)
    turned = np.arctan2(colours[1], colours[0]) - _palette_hues()[:, None]
    nearest = np.abs(wrap(turned + np.pi, 2 * np.pi) - np.pi).argmin(0)
    shares = np.bincount(nearest, minlength=len(COLOURS)) / len(nearest)
    return {colour: ramp(float(share), 0.45, 0.75) for colour, share in zip(COLOURS, shares, strict=True)}


@lru_cache(maxsize=1)
def _palette_hues() -> Array:
    """Angles of the palette's colours in the plane of chroma: [6]."""
    red_green, yellow_blue = chroma(np.array([PALETTE[colour] for colour in COLOURS], np.float32).T)
    hues: Array = np.arctan2(yellow_blue, red_green)
    return hues
