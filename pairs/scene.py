"""Data types of the PairShapes world: what a caption states and a picture shows."""

import zlib
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

Category = Literal["appearance", "colour", "counting", "position", "style", "text"]
Colour = Literal["red", "orange", "yellow", "green", "blue", "purple"]
Shape = Literal["circle", "square", "triangle", "star", "heart"]
Fill = Literal["solid", "outlined", "striped"]
Tone = Literal["day", "night", "sunset", "sketch"]
Relation = Literal["left of", "right of", "above", "below"]
Split = Literal["train", "test"]

CATEGORIES: tuple[Category, ...] = get_args(Category)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SHAPES: tuple[Shape, ...] = get_args(Shape)
FILLS: tuple[Fill, ...] = get_args(Fill)
TONES: tuple[Tone, ...] = get_args(Tone)
RELATIONS: tuple[Relation, ...] = get_args(Relation)
OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
WORDS = (
    "BAT", "BOX", "BUS", "CAR", "CAT", "COW", "CUP", "DOG", "DOT", "FOX",
    "FUN", "HAT", "HOT", "MAP", "RUN", "SEA", "SKY", "SUN", "TEA", "ZOO",
)  # fmt: skip
TEXTS = WORDS + tuple("0123456789")
MAX_OBJECTS = 5
TEST_ONE_IN = 8


@dataclass(frozen=True)
class Group:
    """One to five objects of the same colour, shape and fill."""

    count: int
    colour: Colour
    shape: Shape
    fill: Fill = "solid"


@dataclass(frozen=True)
class Sign:
    """A coloured board with a word or a digit from `TEXTS` on it."""

    text: str
    colour: Colour


@dataclass(frozen=True)
class Scene:
    """The content of a caption; the layout decides exact places.

    One or two groups. `relation` places the first relative to the second (one object each). With a
    `sign` there is at most one group, a single object under the board.
    """

    groups: tuple[Group, ...] = ()
    relation: Relation | None = None
    sign: Sign | None = None
    tone: Tone = "day"

    def __post_init__(self) -> None:
        assert 1 <= len(self.groups) + (self.sign is not None) <= 2, self
        assert self.object_count <= MAX_OBJECTS, self
        assert self.relation is None or [g.count for g in self.groups] == [1, 1], self

    @property
    def object_count(self) -> int:
        """Number of objects, not counting the sign."""
        return sum(group.count for group in self.groups)

    @property
    def canonical(self) -> "Scene":
        """Form independent of the order of groups: equal for "a left of b" and "b right of a"."""
        if self.relation in ("right of", "below"):
            return replace(self, groups=self.groups[::-1], relation=OPPOSITE[self.relation])
        if self.relation is None:
            return replace(self, groups=tuple(sorted(self.groups, key=repr)))
        return self

    @property
    def split(self) -> Split:
        """`test`, never trained on, for one scene in eight, by a hash of the canonical form."""
        return "test" if zlib.crc32(repr(self.canonical).encode()) % TEST_ONE_IN == 0 else "train"


@dataclass(frozen=True)
class Combination:
    """Values that never occur together in a training scene; None matches anything.

    `count`, `colour`, `shape` and `fill` describe one group (for a sign, `colour` is the board's);
    `other_colour` and `other_shape` the second one; `relation` reads from the first to the second.
    """

    category: Category
    count: int | None = None
    colour: Colour | None = None
    shape: Shape | None = None
    fill: Fill | None = None
    other_colour: Colour | None = None
    other_shape: Shape | None = None
    relation: Relation | None = None
    tone: Tone | None = None
    text: str | None = None

    def matches(self, scene: Scene) -> bool:
        """Whether the scene contains this combination, with its groups in either order."""
        if self.tone not in (None, scene.tone):
            return False
        if self.text is not None:
            return scene.sign is not None and self.text == scene.sign.text and self.colour in (None, scene.sign.colour)
        orders = [(scene.groups, scene.relation)]
        if len(scene.groups) == 2:
            turned = OPPOSITE[scene.relation] if scene.relation else None
            orders.append((scene.groups[::-1], turned))
        return any(self._matches_order(groups, relation) for groups, relation in orders)

    def _matches_order(self, groups: tuple[Group, ...], relation: Relation | None) -> bool:
        if not groups or self.relation not in (None, relation):
            return False
        wanted = {f.name: getattr(self, f.name) for f in fields(Group)}
        if any(value is not None and value != getattr(groups[0], name) for name, value in wanted.items()):
            return False
        if self.other_colour is None and self.other_shape is None:
            return True
        return (
            len(groups) == 2
            and self.other_colour in (None, groups[1].colour)
            and self.other_shape in (None, groups[1].shape)
        )
