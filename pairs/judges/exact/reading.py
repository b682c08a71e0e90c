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

from pairs.judges.exact.pixels import SIZE, Mask, chroma, hue_scores, ramp, to_array
from pairs.judges.exact.sign_reading import POST, BoardReading, read_board
from pairs.render import INK, OUTLINE, Array, background, coverage, grid, shape_distance
from pairs.scene import SHAPES, Colour, Fill, Shape, Tone

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
    rgb = to_array(image)
    tone, tones, backdrop = _read_tone(rgb)
    sky = background(tone, SIZE)
    shift = chroma(rgb) - chroma(sky)
    strength = np.linalg.norm(shift, axis=-1)
    darkness = np.clip((sky - rgb).mean(-1) / (sky.mean(-1) - np.mean(INK)), 0, 1) if tone == "sketch" else 0 * strength
    post = np.abs(rgb - np.array(POST, np.float32)).max(-1) < 40
    present = (strength > _FOREGROUND) | (darkness > 0.55)
    explained = np.zeros((SIZE, SIZE), bool)
    board = read_board(rgb, present & ~post, post)
    if board is not None:
        explained |= board.region | _post_region(board)
    objects = []
    solid = ndimage.binary_closing(np.pad(present & ~explained, 2), np.ones((3, 3), bool))[2:-2, 2:-2]
    labels, _ = ndimage.label(solid, np.ones((3, 3), bool))
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels == index
        if part.sum() < _SMALLEST:
            continue
        window = _around(rows), _around(columns)
        found = _read_object(
            chroma(rgb)[window], shift[window], strength[window], darkness[window], part[window], window
        )
        x, y = grid(SIZE)
        explained |= np.hypot(x - found.x, y - found.y) < found.radius * 1.05 + 2.5 / SIZE
        objects.append(found)
    stray = float((present & ~explained).mean())
    light = np.abs((rgb - sky).mean(-1)) > 90
    smudge = float((light & ~explained).mean())
    clean = ramp(stray, 0.025, 0.008) * ramp(smudge, 0.10, 0.05)
    return Reading(tones, backdrop, tuple(objects), board, clean)


def _around(span: slice, margin: int = 5) -> slice:
    return slice(max(0, span.start - margin), min(SIZE, span.stop + margin))


def _read_tone(rgb: Array) -> tuple[Tone, dict[Tone, float], float]:
    """The tone with the nearest background (median distance of pixels), the scores of all, and `backdrop`."""
    distances: dict[Tone, float] = {
        tone: float(np.median(np.abs(rgb - background(tone, SIZE)).max(-1)))
        for tone in ("day", "night", "sunset", "sketch")
    }
    best = min(distances, key=distances.__getitem__)
    backdrop = ramp(distances[best], 40, 18)
    tones = {tone: backdrop * ramp(distance - distances[best], 12, 0) for tone, distance in distances.items()}
    return best, tones, backdrop


def _post_region(board: BoardReading) -> Mask:
    x, y = grid(SIZE)
    region: Mask = (np.abs(x - board.x) < 0.028 + 1.6 / SIZE) & (y > board.y)
    return region


def _read_object(
    hue: Array, shift: Array, strength: Array, darkness: Array, part: Mask, window: tuple[slice, slice]
) -> ObjectReading:
    """Read the object that covers `part` of a window; `hue` and `shift` are [h, w, 2], the others [h, w]."""
    near = ndimage.binary_dilation(part, iterations=3)
    strong = part & (strength > 0.6 * np.percentile(strength[part], 95)) & (strength > _FOREGROUND)
    colours = hue_scores(hue[strong])
    # share of the object's own paint in each pixel: position on the line from background to paint
    paint = np.median(hue[strong], axis=0) if strong.any() else np.zeros(2, np.float32)
    line = paint - (hue - shift)
    own = np.clip((shift * line).sum(-1) / np.maximum((line * line).sum(-1), 1), 0, 1)
    alpha = np.maximum(own, darkness) * near
    silhouette = ndimage.binary_fill_holes((alpha > 0.5) & near)
    pieces, n = ndimage.label(silhouette)
    if n > 1:
        silhouette = pieces == (np.bincount(pieces.ravel())[1:].argmax() + 1)
    x, y = (axis[window] for axis in grid(SIZE))
    fits = {shape: _fit(shape, silhouette, x, y) for shape in SHAPES}
    best = max(fits, key=lambda shape: fits[shape].overlap)
    fit = fits[best]
    shapes = {s: ramp(f.overlap, 0.70, 0.83) * ramp(fit.overlap - f.overlap, 0.06, 0.015) for s, f in fits.items()}
    distance = shape_distance(best, x - np.float32(fit.x), y - np.float32(fit.y), fit.radius)
    inside = distance < -(OUTLINE + 0.5 / SIZE)
    level, spread = (float(alpha[inside].mean()), float(alpha[inside].std())) if inside.any() else (1.0, 0.0)
    fills: dict[Fill, float] = {
        "solid": ramp(level, 0.76, 0.88),
        "striped": ramp(level, 0.88, 0.76) * ramp(level, 0.14, 0.26) * ramp(spread, 0.14, 0.24),
        "outlined": ramp(level, 0.26, 0.14),
    }
    return ObjectReading(
        fit.x, fit.y, fit.radius, colours, shapes, fills, ramp(_edge_error(alpha, distance), 0.85, 0.66)
    )


def _edge_error(alpha: Array, distance: Array) -> float:
    """Error of an edge in pixels of width: paint missing inside it plus paint spilled outside.

    Measured from just inside the edge outwards, because the rim is painted for every fill.
    """
    rim = (distance < 3 / SIZE) & (distance > -1.2 / SIZE)
    length = max(1.0, float((np.abs(distance) < 0.5 / SIZE).sum()))
    return float(np.abs(alpha - coverage(distance, SIZE))[rim].sum()) / length


@dataclass(frozen=True)
class _Fit:
    x: float
    y: float
    radius: float
    overlap: float


@lru_cache(maxsize=1)
def _unit_moments() -> dict[Shape, tuple[float, float]]:
    """Area of each shape of radius 1, and y of its centroid."""
    line = np.linspace(-1.2, 1.2, 481, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    cell = float(line[1] - line[0]) ** 2
    moments = {}
    for shape in SHAPES:
        inside = shape_distance(shape, x, y, 1.0) < 0
        moments[shape] = (float(inside.sum()) * cell, float(y[inside].mean()))
    return moments


def _fit(shape: Shape, silhouette: Mask, x: Array, y: Array) -> _Fit:
    """Fit a shape to a silhouette: place it by area and centroid, then search nearby for the most overlap."""
    if not silhouette.any():
        return _Fit(float(x.mean()), float(y.mean()), 0.1, 0.0)
    unit_area, unit_y = _unit_moments()[shape]
    radius = float(np.sqrt(silhouette.sum() / SIZE**2 / unit_area))
    cx, cy = float(x[silhouette].mean()), float(y[silhouette].mean()) - unit_y * radius
    tried = [(cy + dy / SIZE, radius * scale) for scale in (0.95, 1.0, 1.05) for dy in (-0.6, 0.0, 0.6)]
    ys, radii = np.array(tried, np.float32).T[:, :, None, None]
    drawn = coverage(shape_distance(shape, x - np.float32(cx), y - ys, radii), SIZE)
    common, united = (part(drawn, silhouette).reshape(len(tried), -1).sum(1) for part in (np.minimum, np.maximum))
    overlaps = common / united
    best = int(overlaps.argmax())
    return _Fit(cx, *tried[best], float(overlaps[best]))
