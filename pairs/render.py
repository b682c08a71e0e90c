"""Render scenes from signed distances: anti-aliased, shaded, at any size."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pairs.glyphs import segments
from pairs.layout import CELL, GLYPH_HALF_HEIGHT, GLYPH_HALF_WIDTH, Board, Layout, PlacedObject, arrange
from pairs.scene import Colour, Scene, Tone
from pairs.shapes import Array, shape_distance

PALETTE: dict[Colour, tuple[int, int, int]] = {
    "red": (222, 38, 48),
    "orange": (247, 124, 10),
    "yellow": (252, 218, 40),
    "green": (40, 158, 66),
    "blue": (40, 104, 236),
    "purple": (150, 58, 196),
}
SKY: dict[Tone, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "day": ((186, 222, 248), (240, 246, 250)),
    "night": ((14, 18, 50), (44, 48, 92)),
    "sunset": ((196, 172, 214), (255, 216, 182)),
    "sketch": ((246, 240, 226), (246, 240, 226)),
}
INK = (52, 50, 56)
WHITE = (252, 252, 252)
STROKE = 0.019  # half the line width of a glyph
OUTLINE = 0.04  # line width of an outlined shape
GRASS: dict[Tone, tuple[int, int, int]] = {"day": (128, 176, 132), "sunset": (182, 136, 136), "sketch": (178, 172, 164)}
_BLADES = ((-0.028, 0.078), (0.004, 0.115), (0.034, 0.07))  # bend and height of each blade of grass
STRIPE = CELL  # period of stripes, in phase with the cells


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Array, Array]:
    """Pixel centres in unit coordinates: x [1, size] and y [size, 1], float32."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size).astype(np.float32)
    return line[None], line[:, None]


def coverage(distance: Array, size: int) -> Array:
    """Share of each pixel inside a shape, from signed distances in unit coordinates: [...] → [...] in [0, 1]."""
    result: Array = (0.5 - distance * size).clip(0, 1)
    return result


@lru_cache(maxsize=8)
def background(tone: Tone, size: int) -> Array:
    """Sky or paper of a tone, undecorated: [size, size, 3] in 0–255, read-only."""
    top, bottom = (np.array(c, np.float32) for c in SKY[tone])
    _, y = grid(size)
    return np.broadcast_to(top + (bottom - top) * y[..., None], (size, size, 3))


def render_layout(layout: Layout, size: int = 64) -> NDArray[np.uint8]:
    """Render a scene with fixed places: [size, size, 3] uint8 RGB."""
    tone = layout.tone
    canvas = background(tone, size).copy()
    _decorate(canvas, layout, size)
    if layout.board is not None:
        _draw_board(canvas, layout.board, tone, size)
    for placed in layout.objects:
        _draw_object(canvas, placed, tone, size)
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)


def render(scene: Scene, seed: int, size: int = 64) -> NDArray[np.uint8]:
    """Render a scene: [size, size, 3] uint8 RGB; the seed determines all that the caption leaves open."""
    return render_layout(arrange(scene, seed), size)


def _blend(canvas: Array, colour: Array | tuple[int, int, int], alpha: Array) -> None:
    canvas += (np.asarray(colour, np.float32) - canvas) * alpha[..., None]


def _decorate(canvas: Array, layout: Layout, size: int) -> None:
    """Paint clouds, stars, paper grain, pencil strokes and grass.

    No prompt determines them, so they should need few codes. They are aligned with the code cells, and
    all but the grain keep to free ones: a cloud behind the corner of a heart would need a code of its own.
    """
    rng = np.random.default_rng(layout.decor)
    x, y = grid(size)
    if layout.tone in ("day", "sunset"):
        colour = (255, 255, 255) if layout.tone == "day" else (255, 240, 230)
        for cx, cy in layout.decor_places(rng):
            puffs = ((cx - 0.07, cy + 0.012, 0.05), (cx, cy - 0.01, 0.07), (cx + 0.075, cy + 0.014, 0.05))
            distance = np.min([np.hypot(x - px, (y - py) * 1.35) - r for px, py, r in puffs], axis=0)
            _blend(canvas, colour, 0.7 * np.clip(0.5 - distance / 0.035, 0, 1))
    elif layout.tone == "night":
        for row, column in np.argwhere(layout.free_cells & (rng.random((8, 8)) < 0.16)):
            # a cell's star has a fixed place that differs from its neighbours', so that stars look strewn
            across, down = ((-0.25, 0.25), (0.25, 0.0), (0.0, -0.25))[(row + 2 * column) % 3]
            sx, sy = (column + 0.5 + across) * CELL, (row + 0.5 + down) * CELL
            _blend(canvas, (255, 250, 225), 0.9 * coverage(np.hypot(x - sx, y - sy) - 0.015, 64))
    else:
        grain = np.sin((x - y + CELL / 4) * (2 * np.pi / CELL)) * 0.5 + 0.5
        _blend(canvas, (214, 206, 190), 0.34 * grain.astype(np.float32))
        for cx, cy in layout.decor_places(rng):
            # steep strokes, as if the pencil had been tried out
            strokes = np.abs(((x - cx) / 0.05 + 0.5 + 0.35 * (y - cy) / 0.05) % 2 - 1) - 0.5
            reach = np.maximum(np.abs(x - cx) - 0.1, np.abs(y - cy) - 0.045)
            _blend(canvas, (150, 146, 142), 0.5 * coverage(np.maximum(np.abs(strokes) * 0.05 - 0.012, reach), size))
    if layout.tone in GRASS:
        # Each free cell of the last row has grass or not with even chances: pictures then differ even if the prompt
        # determines all else, and no sampling filter drops so likely a choice.
        for (column,) in np.argwhere(layout.free_cells[-1] & (rng.random(8) < 0.5)):
            _blend(canvas, GRASS[layout.tone], coverage(_grass_distance(x - (column + 0.5) * CELL, 1 - y), size))


def _grass_distance(x: Array, height: Array) -> Array:
    """Distance to a tuft of three bent blades; `x` is the offset from its middle, `height` above the ground."""
    blades = [np.abs(x - bend * (0.35 + 9 * height)) + 0.2 * (height - top) for bend, top in _BLADES]
    distance: Array = np.min(blades, axis=0)
    return distance


def _draw_object(canvas: Array, placed: PlacedObject, tone: Tone, size: int) -> None:
    x, y = grid(size)
    dx, dy = x - np.float32(placed.x), y - np.float32(placed.y)
    distance = shape_distance(placed.group.shape, dx, dy, placed.radius)
    colour = np.array(PALETTE[placed.group.colour], np.float32)
    paint: Array = np.broadcast_to(colour, canvas.shape)
    if tone != "sketch":
        cast = shape_distance(placed.group.shape, dx - 0.018, dy - 0.028, placed.radius)
        if placed.group.fill == "outlined":
            cast = np.abs(cast + OUTLINE / 2) - OUTLINE / 2
        _blend(canvas, (20, 22, 44), 0.26 * np.clip(0.5 - cast / 0.05, 0, 1))
        # light from the upper left gives each object a rounded look
        light = np.exp(-((dx + 0.35 * placed.radius) ** 2 + (dy + 0.4 * placed.radius) ** 2) / (0.5 * placed.radius**2))
        paint = paint * (0.93 + 0.07 * light[..., None]) + 46 * light[..., None]
    if placed.group.fill == "outlined":
        _blend(canvas, paint, coverage(np.abs(distance + OUTLINE / 2) - OUTLINE / 2, size))
        return
    if placed.group.fill == "striped":
        wave = np.abs(((x + y) / STRIPE + 0.25) % 1 - 0.5) - 0.25
        white = np.array(WHITE, np.float32)
        band = coverage(np.maximum(wave * STRIPE / np.sqrt(2), distance + 0.022), size)
        paint = paint + (white - paint) * band[..., None]
    edge = np.array(INK, np.float32) if tone == "sketch" else colour * 0.72
    rim = coverage(-(distance + (0.024 if tone == "sketch" else 0.014)), size)
    paint = paint + (edge - paint) * (rim * (0.9 if tone == "sketch" else 0.75))[..., None]
    _blend(canvas, paint, coverage(distance, size))


def _draw_board(canvas: Array, board: Board, tone: Tone, size: int) -> None:
    x, y = grid(size)
    dx, dy = np.abs(x - board.x), np.abs(y - board.y)
    post = np.maximum(dx - 0.028, np.maximum(board.y - y, y - 1.1))
    _blend(canvas, (126, 92, 62), coverage(post, size))
    qx, qy = dx - board.half_width + 0.04, dy - board.half_height + 0.04
    distance = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - 0.04
    colour = np.array(PALETTE[board.sign.colour], np.float32)
    paint = (
        np.broadcast_to(colour, canvas.shape)
        * (1.06 - 0.14 * ((y - board.y) / board.half_height * 0.5 + 0.5))[..., None]
    )
    edge = np.array(INK, np.float32) if tone == "sketch" else colour * 0.72
    rim = coverage(-(distance + 0.02), size)
    paint = paint + (edge - paint) * (0.8 * rim)[..., None]
    _blend(canvas, paint, coverage(distance, size))
    _blend(canvas, letter_colour(board.sign.colour), coverage(text_distance(board, size), size))


def letter_colour(board_colour: Colour) -> tuple[int, int, int]:
    """Colour of letters: ink on light boards, white on dark ones."""
    return INK if board_colour in ("yellow", "orange") else WHITE


def text_distance(board: Board, size: int) -> Array:
    """Signed distance to the strokes of a board's text: [size, size]."""
    distances = [
        glyph_distance(glyph, cx, cy, size)
        for glyph, (cx, cy) in zip(board.sign.text, board.glyph_centres, strict=True)
    ]
    result: Array = np.min(distances, axis=0)
    return result


def glyph_distance(glyph: str, cx: float, cy: float, size: int) -> Array:
    """Signed distance to the strokes of a glyph centred on (cx, cy) in unit coordinates: [size, size]."""
    x, y = grid(size)
    scale = np.array([GLYPH_HALF_WIDTH, GLYPH_HALF_HEIGHT])
    lines = segments(glyph) * scale + np.array([cx, cy])
    best = np.full((size, size), np.inf, np.float32)
    for (ax, ay), (bx, by) in lines:
        ex, ey = bx - ax, by - ay
        t = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        best = np.minimum(best, np.hypot(x - ax - t * ex, y - ay - t * ey))
    result: Array = best - np.float32(STROKE)
    return result
