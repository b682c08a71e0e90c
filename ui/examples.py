"""Pairs to begin with: of the procedural world, one for each category of PairComp."""

from typing import NamedTuple

import numpy as np

from pairs.scene import CATEGORIES, Category
from pairs.world import World


class Example(NamedTuple):
    """Two prompts that differ in one thing."""

    category: str
    first: str
    second: str


FIRST = Example("counting", "three red circles", "four red circles")


def examples(each: int = 2) -> list[Example]:
    """Some pairs of every category, always the same."""
    rng = np.random.default_rng(11)
    found = [FIRST]
    for category in CATEGORIES:
        found += [_example(category, rng) for _ in range(each)]
    return found


def _example(category: Category, rng: np.random.Generator) -> Example:
    first, second = World().sample_pair(rng, category).captions
    return Example(category, first, second)
