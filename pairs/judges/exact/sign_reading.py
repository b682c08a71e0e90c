"""Read a sign: its board, the board's colour and the glyphs."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import ndimage

from pairs.glyphs import GLYPHS, segments
from pairs.judges.exact.masks import CROSS, Mask, dilate, erode, fill_holes
from pairs.judges.exact.pixels import SIZE, chroma, hue_scores, ramp
from pairs.layout import BOARD_HALF_HEIGHT, GLYPH_HALF_HEIGHT, GLYPH_HALF_WIDTH, GLYPH_PITCH
from pairs.render import PALETTE, STROKE, letter_colour
from pairs.scene import Colour
from pairs.shapes import Array

POST = (126, 92, 62)
_HALF = (8, 9)  # half extents in pixels of the window around a glyph: x, y
_STEPS = 4  # glyph templates are drawn at this many sub-pixel positions per pixel


@dataclass(frozen=True)
class BoardReading:
    """A sign: centre in unit coordinates, a score for each colour, and for each glyph at each position.

    `shape` scores how well the board and post match the renderer's; `region` [64, 64] marks the board's pixels.
    """

    x: float
    y: float
    shape: float
    colours: dict[Colour, float]
    glyphs: tuple[dict[str, float], ...]
    region: Mask = field(repr=False)

    def spells(self, text: str) -> float:
        """Score of the sign reading `text`: product over its characters, 0 for another length."""
        if len(text) != len(self.glyphs):
            return 0.0
        return float(np.prod([scores[glyph] for scores, glyph in zip(self.glyphs, text, strict=True)]))


def read_board(rgb: Array, present: Mask, post: Mask) -> BoardReading | None:
    """Read the sign of a picture [3, 64, 64].

    Returns None unless the largest part of `present` [64, 64] looks like a board above a `post` [64, 64].
    """
    if not post.any():
        return None
    solid = dilate(erode(fill_holes(present)))
    labels, count = ndimage.label(solid, CROSS)
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    part = labels == sizes.argmax() + 1
    # an object or the post may touch the board: count only rows and columns that are mostly filled
    rows = np.nonzero(part.sum(1) > 0.6 * part.sum(1).max())[0]
    columns = np.nonzero(part.sum(0) > 0.6 * part.sum(0).max())[0]
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    height, width = (bottom - top) / SIZE, (right - left) / SIZE
    n = round((width - 0.08) / GLYPH_PITCH)
    if n not in (1, 3):
        return None
    box = part[top:bottom, left:right]
    shape = (
        ramp(abs(height - 2 * BOARD_HALF_HEIGHT), 0.08, 0.05)
        * ramp(abs(width - 0.08 - n * GLYPH_PITCH), 0.08, 0.05)
        * ramp(float(box.mean()), 0.8, 0.92)
        * ramp(_post_share(post, bottom, (left + right) // 2), 0.2, 0.5)
    )
    if shape == 0:
        return None
    colours = chroma(rgb[:, top:bottom, left:right])
    strength = np.linalg.norm(colours, axis=0)
    hues = hue_scores(colours[:, strength > 0.6 * np.percentile(strength, 90)])
    colour = max(hues, key=hues.__getitem__)
    ink = np.array(letter_colour(colour), np.float32)
    board = np.array(PALETTE[colour], np.float32)
    line = (ink - board)[:, None, None]
    written = np.clip(((rgb - board[:, None, None]) * line).sum(0) / (line * line).sum(), 0, 1)
    cx, cy = (left + right) / 2, (top + bottom) / 2
    centres = [cx + (i - (n - 1) / 2) * GLYPH_PITCH * SIZE for i in range(n)]
    glyphs = tuple(_read_glyph(written, x, cy) for x in centres)
    region = np.zeros((SIZE, SIZE), bool)
    region[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3] = True
    return BoardReading(float(cx / SIZE), float(cy / SIZE), shape, hues, glyphs, region)


def _post_share(post: Mask, bottom: int, middle: int) -> float:
    """Share of post pixels in the strip below a board's middle."""
    below = post[bottom + 2 :, middle - 1 : middle + 1]
    return float(below.mean()) if below.size else 0.0


def _read_glyph(written: Array, x: float, y: float) -> dict[str, float]:
    """Score every glyph around a centre (x, y) in pixels, at the best of several small shifts."""
    best = np.zeros(len(GLYPHS))
    padded = np.pad(written, 12)
    for dx in np.arange(-1.5, 1.6, 0.5):
        for dy in np.arange(-1.5, 1.6, 0.5):
            px, py = x + dx, y + dy
            ix, iy = int(np.floor(px)), int(np.floor(py))
            drawn = _templates(round((px - ix) * _STEPS) / _STEPS, round((py - iy) * _STEPS) / _STEPS)
            window = padded[12 + iy - _HALF[1] : 12 + iy + _HALF[1], 12 + ix - _HALF[0] : 12 + ix + _HALF[0]].ravel()
            overlap = np.minimum(drawn, window).sum(1) / np.maximum(drawn, window).sum(1)
            best = np.maximum(best, overlap)
    top = float(best.max())
    return {g: ramp(float(b), 0.42, 0.6) * ramp(top - float(b), 0.08, 0.02) for g, b in zip(GLYPHS, best, strict=True)}


@lru_cache(maxsize=64)
def _templates(fx: float, fy: float) -> Array:
    """Render every glyph, centred (fx, fy) pixels past the window's middle: [G, 18 · 16]."""
    x, y = np.meshgrid(np.arange(-_HALF[0], _HALF[0]) + 0.5 - fx, np.arange(-_HALF[1], _HALF[1]) + 0.5 - fy)
    drawn = []
    for glyph in GLYPHS:
        lines = segments(glyph) * np.array([GLYPH_HALF_WIDTH, GLYPH_HALF_HEIGHT]) * SIZE
        distance = np.full(x.shape, np.inf)
        for (ax, ay), (bx, by) in lines:
            ex, ey = bx - ax, by - ay
            t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            distance = np.minimum(distance, np.hypot(x - ax - t * ex, y - ay - t * ey))
        drawn.append(np.clip(0.5 - (distance - STROKE * SIZE), 0, 1))
    return np.stack(drawn).reshape(len(GLYPHS), -1).astype(np.float32)
