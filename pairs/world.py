"""Sample the PairShapes world: scenes of each category, held-out scenes, and pairs that differ in one factor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from pairs.caption import Wording, describe
from pairs.scene import (
    COLOURS,
    FILLS,
    MAX_OBJECTS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    TEXTS,
    TONES,
    WORDS,
    Category,
    Colour,
    Combination,
    Group,
    Relation,
    Scene,
    Shape,
    Sign,
    Split,
    Tone,
)

T = TypeVar("T")

_COMPANION = 0.4  # probability of a second group, or of an object beside a sign
_TONE_WEIGHTS = (0.37, 0.29, 0.17, 0.17)


@dataclass(frozen=True)
class ScenePair:
    """Two scenes that differ in one factor, with one wording for both captions."""

    category: Category
    scenes: tuple[Scene, Scene]
    wording: Wording

    @property
    def captions(self) -> tuple[str, str]:
        return describe(self.scenes[0], self.wording), describe(self.scenes[1], self.wording)


@dataclass(frozen=True)
class World:
    """Source of random scenes, in a training and a test split.

    The training split has none of the `held_out` combinations and none of the scenes that
    `Scene.split` reserves for testing.
    """

    held_out: tuple[Combination, ...] = ()

    def allows(self, scene: Scene, split: Split) -> bool:
        """Whether a scene belongs to a split; reserved and held-out scenes belong to `test`."""
        reserved = scene.split == "test" or self.is_held_out(scene)
        return reserved == (split == "test")

    def is_held_out(self, scene: Scene) -> bool:
        """Whether the scene contains a held-out combination."""
        return any(combination.matches(scene) for combination in self.held_out)

    def sample(self, rng: np.random.Generator, category: Category, split: Split = "train") -> Scene:
        """Draw a random scene of a category from a split."""
        while True:
            scene = sample_scene(rng, category)
            if self.allows(scene, split):
                return scene

    def sample_held_out(self, rng: np.random.Generator, category: Category) -> Scene:
        """Draw a random scene with one of the category's held-out combinations.

        Raises:
            ValueError: the category has none.
        """
        choices = [c for c in self.held_out if c.category == category]
        if not choices:
            raise ValueError(f"no combination of category {category!r} is held out")
        wanted = choices[rng.integers(len(choices))]
        while True:
            scene = _apply_combination(wanted, sample_scene(rng, category))
            if scene is not None and wanted.matches(scene):
                return scene

    def sample_pair(self, rng: np.random.Generator, category: Category, split: Split = "train") -> ScenePair:
        """Draw two scenes of one split that differ in the category's factor."""
        while True:
            first = self.sample(rng, category, split)
            second = change(first, category, rng)
            if self.allows(second, split):
                return ScenePair(category, (first, second), Wording.sample(rng, category))

    def sample_held_out_pair(self, rng: np.random.Generator, category: Category) -> ScenePair:
        """Draw two unseen scenes that differ in the category's factor, the first with a held-out combination.

        Raises:
            ValueError: no combination of the category is held out.
        """
        while True:
            first = self.sample_held_out(rng, category)
            second = change(first, category, rng)
            if self.allows(second, "test"):
                return ScenePair(category, (first, second), Wording.sample(rng, category))


def sample_scene(rng: np.random.Generator, category: Category) -> Scene:
    """Draw a random scene that shows a category's factor, held out or not."""
    tone: Tone = TONES[rng.choice(4, p=_TONE_WEIGHTS)] if category != "style" else _pick(rng, TONES)
    if category == "text":
        sign = sample_sign(rng)
        groups = (_single(rng),) if rng.random() < _COMPANION else ()
        return Scene(groups, sign=sign, tone=tone)
    if category == "position":
        first, second = _two_singles(rng)
        return Scene((first, second), relation=_pick(rng, RELATIONS), tone=tone)
    if category == "colour":
        if rng.random() < 0.3:
            return Scene((replace(_single(rng), count=int(rng.integers(1, 3))),), tone=tone)
        return Scene(_two_singles(rng), tone=tone)
    if category == "appearance":
        first, second = _two_singles(rng)
        first = replace(first, fill=_pick(rng, FILLS), count=int(rng.integers(1, 3)))
        if rng.random() < 0.5:
            return Scene((first,), tone=tone)
        return Scene((replace(first, count=1), replace(second, fill=_pick(rng, FILLS))), tone=tone)
    first, second = _two_singles(rng)
    if category == "counting" and rng.random() < _COMPANION:
        total = int(rng.integers(3, MAX_OBJECTS + 1))
        count = int(rng.integers(1, total))
        return Scene((replace(first, count=count), replace(second, count=total - count)), tone=tone)
    count = int(rng.integers(1, MAX_OBJECTS + 1)) if category == "counting" else int(rng.integers(1, 4))
    if category == "style" and rng.random() < _COMPANION:
        return Scene((replace(first, count=1), second), tone=tone)
    return Scene((replace(first, count=count),), tone=tone)


def sample_object(rng: np.random.Generator) -> Group:
    """Draw a single object of random colour, shape and fill."""
    return replace(_single(rng), fill=_pick(rng, FILLS))


def sample_sign(rng: np.random.Generator) -> Sign:
    """Draw a sign of random text and colour."""
    return Sign(_pick(rng, TEXTS), _pick(rng, COLOURS))


def change(scene: Scene, category: Category, rng: np.random.Generator) -> Scene:
    """Copy a scene with the category's factor changed and everything else kept."""
    if category == "style":
        return replace(scene, tone=_pick(rng, [t for t in TONES if t != scene.tone]))
    if category == "position":
        assert scene.relation is not None
        return replace(scene, relation=OPPOSITE[scene.relation])
    if category == "text":
        assert scene.sign is not None
        return replace(scene, sign=replace(scene.sign, text=_similar_text(scene.sign.text, rng)))
    group = scene.groups[0]
    if category == "counting":
        room = MAX_OBJECTS - scene.object_count + group.count
        counts = [c for c in (group.count - 1, group.count + 1) if 1 <= c <= room]
        if not counts:  # a single object beside four others: change the others
            return replace(scene, groups=(group, replace(scene.groups[1], count=scene.groups[1].count - 1)))
        group = replace(group, count=_pick(rng, counts))
    elif category == "colour":
        taken = {g.colour for g in scene.groups}
        group = replace(group, colour=_pick(rng, [c for c in COLOURS if c not in taken]))
    else:
        group = replace(group, fill=_pick(rng, [f for f in FILLS if f != group.fill]))
    return replace(scene, groups=(group, *scene.groups[1:]))


def _similar_text(text: str, rng: np.random.Generator) -> str:
    """Draw another text of the same length, one letter away if there is such a word."""
    same = [t for t in TEXTS if len(t) == len(text) and t != text]
    near = [t for t in same if text in WORDS and sum(a != b for a, b in zip(t, text, strict=True)) == 1]
    return _pick(rng, near or same)


def _single(rng: np.random.Generator) -> Group:
    return Group(1, _pick(rng, COLOURS), _pick(rng, SHAPES))


def _two_singles(rng: np.random.Generator) -> tuple[Group, Group]:
    """Draw two objects of different colours, so that colour distinguishes them."""
    colours: tuple[Colour, ...] = COLOURS
    a, b = rng.choice(len(colours), 2, replace=False)
    shapes: tuple[Shape, ...] = SHAPES
    return Group(1, colours[a], _pick(rng, shapes)), Group(1, colours[b], _pick(rng, shapes))


def _apply_combination(wanted: Combination, scene: Scene) -> Scene | None:
    """Set a combination's values in a sampled scene; None if they do not fit."""
    if wanted.tone is not None:
        scene = replace(scene, tone=wanted.tone)
    if wanted.text is not None:
        assert scene.sign is not None
        assert wanted.colour is not None
        return replace(scene, sign=Sign(wanted.text, wanted.colour))
    if (wanted.other_colour or wanted.other_shape or wanted.relation) and len(scene.groups) < 2:
        return None
    if wanted.count and len(scene.groups) == 2 and wanted.category != "counting":
        return None  # only counting scenes have a group of several beside another group
    groups = list(scene.groups)
    groups[0] = Group(
        wanted.count or groups[0].count,
        wanted.colour or groups[0].colour,
        wanted.shape or groups[0].shape,
        wanted.fill or groups[0].fill,
    )
    if len(groups) == 2:
        groups[1] = replace(
            groups[1],
            colour=wanted.other_colour or groups[1].colour,
            shape=wanted.other_shape or groups[1].shape,
        )
        if groups[0].colour == groups[1].colour:
            return None
    if sum(g.count for g in groups) > MAX_OBJECTS:
        return None
    relation: Relation | None = wanted.relation or scene.relation
    return replace(scene, groups=tuple(groups), relation=relation)


def _pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    return values[int(rng.integers(len(values)))]
