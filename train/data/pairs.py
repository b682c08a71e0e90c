"""Pairs of prompts that differ by a word, with a picture of each: the interface, and pairs of the procedural world."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from pairs.render import render
from pairs.scene import CATEGORIES, Split
from pairs.world import ScenePair, World


class PairSource(Protocol):
    """Numbered pairs of prompts; pair i is the same on every machine.

    A pair has two prompts that differ by a word or two, or one prompt alone.
    """

    def __len__(self) -> int:
        """Number of pairs; very large if they are made up as needed."""

    @property
    def has_pictures(self) -> bool:
        """Whether every pair has a ground-truth picture of each of its prompts."""

    def prompts(self, index: int) -> tuple[str, ...]:
        """The one or two prompts of a pair."""

    def pictures(self, index: int) -> tuple[Image.Image, ...]:
        """A ground-truth picture of each prompt, RGB, of any size."""


@dataclass(frozen=True)
class WorldPairs:
    """Pairs of the procedural world that differ in one factor.

    Both pictures of a pair have the same layout wherever their scenes are alike.

    size: of the pictures, in pixels.
    category_weights: how often each category is sampled, in the order of `CATEGORIES`.
    split: "train", or "test" for pairs of scenes that training never sees.
    """

    world: World
    seed: int
    size: int
    category_weights: tuple[float, ...] = (1.0,) * len(CATEGORIES)
    split: Split = "train"

    def __len__(self) -> int:
        return 2**31

    @property
    def has_pictures(self) -> bool:
        return True

    def prompts(self, index: int) -> tuple[str, ...]:
        return self._pair(index).captions

    def pictures(self, index: int) -> tuple[Image.Image, ...]:
        return tuple(Image.fromarray(render(scene, index, self.size)) for scene in self._pair(index).scenes)

    def _pair(self, index: int) -> ScenePair:
        rng = np.random.default_rng([self.seed, index, 3])
        weights = np.array(self.category_weights)
        category = CATEGORIES[rng.choice(len(CATEGORIES), p=weights / weights.sum())]
        return self.world.sample_pair(rng, category, self.split)
