"""Where a scene's things stand: everything a picture shows that its caption leaves open."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pairs.scene import Group, Relation, Scene, Sign

# Unit coordinates: (0, 0) is the top left corner of the picture, (1, 1) the bottom right one.
LATTICE = 1 / 32  # where objects may stand: two pixels at 64 px, four positions to a code cell
_RADIUS = {1: 0.21, 2: 0.165, 3: 0.13, 4: 0.13, 5: 0.115}
# Centres in lattice steps, before each object is moved by a step or so.
_ARRANGEMENTS: dict[int, tuple[tuple[tuple[int, int], ...], ...]] = {
    1: (((16, 16),),),
    2: (((9, 16), (23, 16)), ((10, 10), (22, 22)), ((22, 10), (10, 22))),
    3: (
        ((6, 16), (16, 16), (26, 16)),
        ((16, 9), (8, 22), (24, 22)),
        ((8, 10), (24, 10), (16, 23)),
        ((7, 8), (16, 16), (25, 24)),
    ),
    4: (((9, 9), (23, 9), (9, 23), (23, 23)), ((16, 6), (6, 16), (26, 16), (16, 26))),
    5: (
        ((7, 7), (25, 7), (16, 16), (7, 25), (25, 25)),
        ((6, 10), (16, 10), (26, 10), (11, 22), (21, 22)),
    ),
}
_RELATED: dict[Relation, tuple[tuple[int, int], ...]] = {
    "left of": ((9, 16), (23, 16)),
    "right of": ((23, 16), (9, 16)),
    "above": ((16, 9), (16, 23)),
    "below": ((16, 23), (16, 9)),
}
_GAP = 0.05  # between any two objects: over three pixels at 64 px, so that the eye separates them
_MARGIN = 0.03

GLYPH_PITCH = 0.25  # two code cells of an 8 × 8 grid to a glyph
GLYPH_HALF_WIDTH = 0.08
GLYPH_HALF_HEIGHT = 0.11
BOARD_HALF_HEIGHT = 0.17


@dataclass(frozen=True)
class Placed:
    """One object: its look, centre and circumscribed radius, in unit coordinates."""

    group: Group
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Board:
    """The sign's board: centre and half extents, in unit coordinates."""

    sign: Sign
    x: float
    y: float
    half_width: float
    half_height: float = BOARD_HALF_HEIGHT

    @property
    def glyph_centres(self) -> list[tuple[float, float]]:
        """Centre of each character, left to right."""
        n = len(self.sign.text)
        return [(self.x + (i - (n - 1) / 2) * GLYPH_PITCH, self.y) for i in range(n)]


@dataclass(frozen=True)
class Layout:
    """A scene with every place fixed; `decor` seeds clouds, stars and paper grain."""

    scene: Scene
    objects: tuple[Placed, ...]
    board: Board | None
    decor: int


def arrange(scene: Scene, seed: int) -> Layout:
    """Place a scene's things; scenes that differ in look alone get equal places from equal seeds.

    Args:
        scene: what to show.
        seed: any non-negative integer.
    """
    rng = np.random.default_rng([seed, scene.object_count, scene.sign is not None])
    decor = int(np.random.default_rng([seed, 7]).integers(2**31))
    board = None
    if scene.sign is not None:
        board = _place_board(scene, rng)
        # beside the post, on the side with more room
        sides = (0.25, 0.75) if board.x == 0.5 else (0.25,) if board.x > 0.5 else (0.75,)
        centres = np.array([(rng.choice(sides), 0.75)])[: scene.object_count]
        radii = np.full(scene.object_count, 0.16)
    else:
        centres, radii = _place_objects(scene, rng)
    looks = [group for group in scene.groups for _ in range(group.count)]
    objects = tuple(
        Placed(group, float(x), float(y), float(r)) for group, (x, y), r in zip(looks, centres, radii, strict=True)
    )
    return Layout(scene, objects, board, decor)


def _place_board(scene: Scene, rng: np.random.Generator) -> Board:
    """Glyphs are centred on the corners of code cells, so that every sign is made of the same codes."""
    assert scene.sign is not None
    n = len(scene.sign.text)
    x = 0.5 if n > 1 else float(rng.choice((0.375, 0.5, 0.625)))
    y = 0.25 if scene.groups else float(rng.choice((0.25, 0.375, 0.5)))
    return Board(scene.sign, x, y, GLYPH_PITCH * n / 2 + 0.04)


def _place_objects(scene: Scene, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n = scene.object_count
    if scene.relation is not None:
        base = np.array(_RELATED[scene.relation])
    else:
        choices = _ARRANGEMENTS[n]
        base = np.array(choices[rng.integers(len(choices))])
        # which object takes which place: only matters when two groups share the picture
        base = base[rng.permutation(n)]
    radii = np.full(n, _RADIUS[n], np.float64)
    steps = 3 if n == 1 else 1
    while True:
        centres = np.asarray((base + rng.integers(-steps, steps + 1, base.shape)) * LATTICE, np.float64)
        distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        apart = bool((distances >= 2 * radii[0] + _GAP)[~np.eye(n, dtype=bool)].all())
        if apart and bool(((centres > radii[0] + _MARGIN) & (centres < 1 - radii[0] - _MARGIN)).all()):
            return centres, radii
