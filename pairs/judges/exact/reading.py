"""Read a picture of the procedural world: its background, objects and sign, from the pixels.

Everything is compared with the renderer's own geometry. An object's colour gives its silhouette, the
silhouette gives the best-fitting shape, and the object's edge and inside are compared with a drawing of
that shape. So a blurred, half-drawn or noisy object scores as a poor fit, not as a good shape.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

from pairs.judges.exact.fitting import fit_shapes
from pairs.judges.exact.masks import CROSS, Mask, close, fill_holes
from pairs.judges.exact.pixels import SIZE, chroma, hue_scores, planes, ramp, to_planes
from pairs.judges.exact.sign_reading import POST, BoardReading, read_board
from pairs.render import INK, OUTLINE, background, coverage, grid
from pairs.scene import TONES, Colour, Fill, Shape, Tone
from pairs.shapes import Array

_FOREGROUND = 55.0  # chroma distance from the background above which a pixel is foreground
_SMALLEST = 24  # minimum pixels of an object; the smallest that the world draws has about 60


@dataclass(frozen=True)
class ObjectReading:
    """One object: its place, and scores in [0, 1] of its looks.

    `colours`, `shapes` and `fills` score every possible value; `drawn` scores how crisp and complete
    the edge is. `x`, `y` and `radius` are in unit coordinates.
    """

    x: float
    y: float
    radius: float
    colours: dict[Colour, float]
    shapes: dict[Shape, float]
    fills: dict[Fill, float]
    drawn: float


@dataclass(frozen=True)
class Reading:
    """Content of a picture, with scores in [0, 1].

    `backdrop` scores how well the best tone explains the background; `clean` is 1 if no stray marks
    lie outside the objects and the sign.
    """

    tones: dict[Tone, float]
    backdrop: float
    objects: tuple[ObjectReading, ...]
    board: BoardReading | None
    clean: float


def read(image: Image.Image) -> Reading:
    """Read one picture of any size."""
    rgb = to_planes(image)
    tone, tones, backdrop = _read_tone(rgb)
    sky = _skies()[TONES.index(tone)]
    hue = chroma(rgb)
    shift = hue - chroma(sky)
    strength = np.linalg.norm(shift, axis=0)
    shade = (sky - rgb).mean(0)
    darkness = np.clip(shade / (sky.mean(0) - np.mean(INK)), 0, 1) if tone == "sketch" else 0 * strength
    post = np.abs(rgb - np.array(POST, np.float32)[:, None, None]).max(0) < 40
    present = (strength > _FOREGROUND) | (darkness > 0.55)
    explained = np.zeros((SIZE, SIZE), bool)
    board = read_board(rgb, present & ~post, post)
    if board is not None:
        explained |= board.region | _post_region(board)
    objects = []
    x, y = grid(SIZE)
    labels, _ = ndimage.label(close(present & ~explained), np.ones((3, 3), bool))
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        window = rows, columns = _around(box[0]), _around(box[1])
        part = labels[window] == index
        if part.sum() < _SMALLEST:
            continue
        found = _read_object(
            hue[:, *window],
            shift[:, *window],
            strength[window],
            darkness[window],
            part,
            x[:, columns],
            y[rows],
        )
        explained |= np.hypot(x - found.x, y - found.y) < found.radius * 1.05 + 2.5 / SIZE
        objects.append(found)
    stray = float((present & ~explained).mean())
    smudge = float(((np.abs(shade) > 90) & ~explained).mean())
    clean = ramp(stray, 0.025, 0.008) * ramp(smudge, 0.10, 0.05)
    return Reading(tones, backdrop, tuple(objects), board, clean)


def _around(span: slice, margin: int = 5) -> slice:
    return slice(max(0, span.start - margin), min(SIZE, span.stop + margin))


def _read_tone(rgb: Array) -> tuple[Tone, dict[Tone, float], float]:
    """The tone with the nearest background (median distance of pixels), the scores of all, and `backdrop`."""
    medians = np.median(np.abs(rgb - _skies()).max(1).reshape(len(TONES), -1), axis=1)
    distances: dict[Tone, float] = dict(zip(TONES, map(float, medians), strict=True))
    best = min(distances, key=distances.__getitem__)
    backdrop = ramp(distances[best], 40, 18)
    tones = {tone: backdrop * ramp(distance - distances[best], 12, 0) for tone, distance in distances.items()}
    return best, tones, backdrop


@lru_cache(maxsize=1)
def _skies() -> Array:
    """Backgrounds of all tones: [T, 3, SIZE, SIZE]."""
    return np.stack([planes(background(tone, SIZE)) for tone in TONES])


def _post_region(board: BoardReading) -> Mask:
    x, y = grid(SIZE)
    region: Mask = (np.abs(x - board.x) < 0.028 + 1.6 / SIZE) & (y > board.y)
    return region


def _read_object(
    hue: Array, shift: Array, strength: Array, darkness: Array, part: Mask, x: Array, y: Array
) -> ObjectReading:
    """Read the object that covers `part` of a window.

    Args:
        hue, shift: [2, h, w].
        strength, darkness, part: [h, w].
        x, y: the window's part of the grid, [1, w] and [h, 1].
    """
    near = ndimage.binary_dilation(part, CROSS, iterations=3)
    strong = part & (strength > 0.6 * np.percentile(strength[part], 95)) & (strength > _FOREGROUND)
    colours = hue_scores(hue[:, strong])
    # share of the object's own paint in each pixel: position on the line from background to paint
    paint = np.median(hue[:, strong], axis=1) if strong.any() else np.zeros(2, np.float32)
    line = paint[:, None, None] - (hue - shift)
    own = np.clip((shift * line).sum(0) / np.maximum((line * line).sum(0), 1), 0, 1)
    alpha = np.maximum(own, darkness) * near
    silhouette = fill_holes((alpha > 0.5) & near)
    pieces, n = ndimage.label(silhouette, CROSS)
    if n > 1:
        silhouette = pieces == (np.bincount(pieces.ravel())[1:].argmax() + 1)
    fits = fit_shapes(silhouette, x, y)
    best = max(fits, key=lambda shape: fits[shape].overlap)
    fit = fits[best]
    shapes = {s: ramp(f.overlap, 0.70, 0.83) * ramp(fit.overlap - f.overlap, 0.06, 0.015) for s, f in fits.items()}
    inside = fit.distance < -(OUTLINE + 0.5 / SIZE)
    level, spread = (float(alpha[inside].mean()), float(alpha[inside].std())) if inside.any() else (1.0, 0.0)
    fills: dict[Fill, float] = {
        "solid": ramp(level, 0.76, 0.88),
        "striped": ramp(level, 0.88, 0.76) * ramp(level, 0.14, 0.26) * ramp(spread, 0.14, 0.24),
        "outlined": ramp(level, 0.26, 0.14),
    }
    return ObjectReading(
        fit.x, fit.y, fit.radius, colours, shapes, fills, ramp(_edge_error(alpha, fit.distance), 0.85, 0.66)
    )


def _edge_error(alpha: Array, distance: Array) -> float:
    """Error of an edge in pixels of width: paint missing inside it plus paint spilled outside.

    Measured from just inside the edge outwards, because the rim is painted for every fill.
    """
    rim = (distance < 3 / SIZE) & (distance > -1.2 / SIZE)
    length = max(1.0, float((np.abs(distance) < 0.5 / SIZE).sum()))
    return float(np.abs(alpha - coverage(distance, SIZE))[rim].sum()) / length
