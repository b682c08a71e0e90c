"""Layout of a scene: the places and decoration, which its caption leaves open.

A model should have little to learn that no prompt determines (docs/tiny.md). So objects, glyphs and
decoration are aligned with the code cells of an 8 × 8 grid, which gives a look the same few codes at
every place. Several objects are placed in mirror symmetry, row by row in the caption's order; of more
than two, no row holds objects of two groups.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pairs.scene import Group, Scene, Sign, Tone

# Unit coordinates: (0, 0) is the top left corner of the picture, (1, 1) the bottom right one.
CELL = 0.125  # side of a code cell; objects are centred on corners of cells
LARGE, SMALL = 0.16, 0.105
_RADIUS = {1: LARGE, 2: LARGE, 3: SMALL, 4: SMALL, 5: SMALL}
_CORNERS = range(2, 7)  # rows and columns of centres, in cells; far enough from the border for every radius
_GAP = 0.052  # minimum between two objects: over three pixels at 64 px, so that the eye separates them
_WIDE_GAP = 0.14  # minimum within a single group of three or four, so that the eye counts them at a glance

GLYPH_PITCH = 0.25  # two code cells per glyph
GLYPH_HALF_WIDTH = 0.08
GLYPH_HALF_HEIGHT = 0.11
BOARD_HALF_HEIGHT = 0.17

_SKY_ROWS = 3  # decorations start in one of the first rows of cells if there is room


@dataclass(frozen=True)
class PlacedObject:
    """One object: its look, centre and circumscribed radius, in unit coordinates."""

    group: Group
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Board:
    """Board of a sign: centre and half extents, in unit coordinates."""

    sign: Sign
    x: float
    y: float
    half_width: float
    half_height: float = BOARD_HALF_HEIGHT

    @property
    def glyph_centres(self) -> list[tuple[float, float]]:
        """Centres (x, y) of the characters, left to right, in unit coordinates."""
        n = len(self.sign.text)
        return [(self.x + (i - (n - 1) / 2) * GLYPH_PITCH, self.y) for i in range(n)]


@dataclass(frozen=True)
class Layout:
    """Scene with all places fixed; `decor` seeds clouds, stars, pencil strokes and grass."""

    tone: Tone
    objects: tuple[PlacedObject, ...]
    board: Board | None
    decor: int

    @property
    def free_cells(self) -> NDArray[np.bool_]:
        """Cells that neither objects nor the board touch, [8, 8] by row and column; the post is ignored."""
        cells = round(1 / CELL)
        near = np.arange(cells) * CELL
        far = near + CELL
        free = np.ones((cells, cells), bool)
        for placed in self.objects:
            dx = np.maximum(0, np.maximum(near - placed.x, placed.x - far))
            dy = np.maximum(0, np.maximum(near - placed.y, placed.y - far))
            free &= np.hypot(dx[None], dy[:, None]) >= placed.radius + 0.01
        if self.board is not None:
            across = np.maximum(near - self.board.x, self.board.x - far) < self.board.half_width
            along = np.maximum(near - self.board.y, self.board.y - far) < self.board.half_height
            free &= ~(across[None] & along[:, None])
        return free

    def decor_places(self, rng: np.random.Generator) -> list[tuple[float, float]]:
        """Draw centres of up to two decorations of 2 × 2 free cells, in the upper part if there is room."""
        free = self.free_cells
        room = free[:-1, :-1] & free[:-1, 1:] & free[1:, :-1] & free[1:, 1:]
        chosen: list[tuple[float, float]] = []
        for _ in range(2):
            rows, columns = np.nonzero(room)
            if not len(rows):
                break
            if (rows < _SKY_ROWS).any():
                rows, columns = rows[rows < _SKY_ROWS], columns[rows < _SKY_ROWS]
            place = int(rng.integers(len(rows)))
            row, column = int(rows[place]), int(columns[place])
            chosen.append(((column + 1) * CELL, (row + 1) * CELL))
            room[max(0, row - 1) : row + 2, max(0, column - 2) : column + 3] = False
        return chosen


def arrange(scene: Scene, seed: int) -> Layout:
    """Place a scene's objects and sign; scenes that differ only in looks get the same places from the same seed.

    Args:
        scene: what to show.
        seed: any non-negative integer.
    """
    rng = np.random.default_rng([seed, scene.object_count, scene.sign is not None])
    decor = int(np.random.default_rng([seed, 7]).integers(2**31))
    board = None
    if scene.sign is not None:
        board = place_board(scene.sign, rng, high=bool(scene.groups))
        places = places_beside(board)
        centres = [places[rng.integers(len(places))]][: scene.object_count]
        radius = LARGE
    else:
        centres = _place_objects(scene, rng)
        radius = _RADIUS[scene.object_count]
    looks = [group for group in scene.groups for _ in range(group.count)]
    objects = tuple(PlacedObject(group, x, y, radius) for group, (x, y) in zip(looks, centres, strict=True))
    return Layout(scene.tone, objects, board, decor)


def place_board(sign: Sign, rng: np.random.Generator, *, high: bool) -> Board:
    """Place a sign's board; `high` leaves room for an object under it.

    Glyphs are centred on corners of code cells, so that all signs use the same codes.
    """
    n = len(sign.text)
    x = 0.5 if n > 1 else float(rng.choice((0.375, 0.5, 0.625)))
    y = 0.25 if high else float(rng.choice((0.25, 0.375, 0.5)))
    return Board(sign, x, y, GLYPH_PITCH * n / 2 + 0.04)


def places_beside(board: Board) -> list[tuple[float, float]]:
    """Centres (x, y) at which a large object fits under a high board, beside its post."""
    sides = (0.25, 0.75) if board.x == 0.5 else (0.25,) if board.x > 0.5 else (0.75,)
    return [(x, y) for x in sides for y in (0.625, 0.75)]


def scatter(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Draw up to `count` places (x, y, radius) for objects of both sizes, with the minimum gap, in random order."""
    corners = [(x * CELL, y * CELL) for y in _CORNERS for x in _CORNERS]
    places: list[tuple[float, float, float]] = []
    for index in rng.permutation(len(corners)):
        x, y = corners[index]
        radius = LARGE if rng.random() < 0.6 else SMALL
        if len(places) < count and all(np.hypot(x - u, y - v) >= radius + r + _GAP for u, v, r in places):
            places.append((x, y, radius))
    return places


def _place_objects(scene: Scene, rng: np.random.Generator) -> list[tuple[float, float]]:
    choices = _arrangements(tuple(group.count for group in scene.groups))
    if scene.relation is not None:
        shared = 1 if scene.relation in ("left of", "right of") else 0
        choices = [c for c in choices if c[0][shared] == c[1][shared]]
    corners = choices[rng.integers(len(choices))]
    if scene.relation in ("right of", "below"):
        corners = corners[::-1]
    return [(x * CELL, y * CELL) for x, y in corners]


@lru_cache(maxsize=32)
def _arrangements(counts: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
    """All mirror-symmetric placements of groups of the given sizes: corners (x, y) in cells, row by row.

    Objects keep the minimum gap. With more than two of them, no row holds objects of two groups.
    """
    n = sum(counts)
    corners = [(x, y) for y in _CORNERS for x in _CORNERS]
    gap = _WIDE_GAP if counts in ((3,), (4,)) else _GAP
    apart = ((2 * _RADIUS[n] + gap) / CELL) ** 2
    found = []
    for chosen in combinations(corners, n):
        if n > 2 and len(counts) == 2 and chosen[counts[0] - 1][1] == chosen[counts[0]][1]:
            continue
        if all((ax - bx) ** 2 + (ay - by) ** 2 >= apart for (ax, ay), (bx, by) in combinations(chosen, 2)):
            left_right, top_bottom = (min(axis) + max(axis) for axis in zip(*chosen, strict=True))
            mirrored = ({(left_right - x, y) for x, y in chosen}, {(x, top_bottom - y) for x, y in chosen})
            if set(chosen) in mirrored:
                found.append(chosen)
    return found
