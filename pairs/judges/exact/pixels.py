"""Measurements of pixels: size, chroma and hue, and a ramp from measurements to scores."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pairs.render import PALETTE, Array
from pairs.scene import COLOURS, Colour

SIZE = 64  # pictures are read at this size
Mask = NDArray[np.bool_]


def ramp(value: float, low: float, high: float) -> float:
    """Map `low` to 0 and `high` to 1, linear between and constant beyond; `low` may be the larger."""
    return float(min(max((value - low) / (high - low), 0), 1))  # np.clip takes ten times as long


def to_array(image: Image.Image) -> Array:
    """Convert a picture of any size to [SIZE, SIZE, 3] float32 in 0–255."""
    rgb = image.convert("RGB")
    if rgb.size != (SIZE, SIZE):
        rgb = rgb.resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(rgb, np.float32)


def chroma(rgb: Array) -> Array:
    """Opponent channels red − green and yellow − blue: [..., 3] → [..., 2]; grey is (0, 0)."""
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.stack([r - g, (r + g) / 2 - b], axis=-1)


def hue_scores(colours: Array) -> dict[Colour, float]:
    """Score each palette colour by the share of pixels, chroma [N, 2], whose hue is nearest to its own."""
    if len(colours) == 0:
        return dict.fromkeys(COLOURS, 0.0)
    palette = chroma(np.array([PALETTE[c] for c in COLOURS], np.float32))
    angles = np.arctan2(colours[:, 1], colours[:, 0])[:, None] - np.arctan2(palette[:, 1], palette[:, 0])[None]
    nearest = np.abs((angles + np.pi) % (2 * np.pi) - np.pi).argmin(1)
    shares = np.bincount(nearest, minlength=len(COLOURS)) / len(nearest)
    return {colour: ramp(float(share), 0.45, 0.75) for colour, share in zip(COLOURS, shares, strict=True)}
