"""Scenes of the world with their pictures and captions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pairs.caption import Wording, describe
from pairs.render import render
from pairs.scene import CATEGORIES, Category, Scene
from pairs.world import World


@dataclass(frozen=True)
class SceneSource:
    """Endless list of training scenes; row i has the same scene and picture on every machine."""

    world: World
    seed: int
    size: int
    category_weights: tuple[float, ...] = (1.0,) * len(CATEGORIES)

    def scene(self, index: int) -> tuple[Category, Scene]:
        """Draw the scene of a row, with the category that it was sampled for."""
        rng = np.random.default_rng([self.seed, index])
        weights = np.array(self.category_weights)
        category = CATEGORIES[rng.choice(len(CATEGORIES), p=weights / weights.sum())]
        return category, self.world.sample(rng, category)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Render the picture of a row: uint8 [size, size, 3]."""
        return render(self.scene(index)[1], index, self.size)

    def caption(self, index: int, epoch: int) -> str:
        """Write a caption of a row; its wording changes from epoch to epoch."""
        category, scene = self.scene(index)
        return describe(scene, Wording.sample(np.random.default_rng([self.seed, index, epoch, 1]), category))
