"""Pairs to begin with: of the procedural world, one for each category of PairComp."""

from typing import NamedTuple

import numpy as np

from pairs.scene import CATEGORIES
from pairs.world import World

_SAMPLED = 60  # of each category, to choose from


class Example(NamedTuple):
    """Two prompts that differ in one thing."""

    category: str
    first: str
    second: str


FIRST = Example("counting", "three red circles", "four red circles")


def examples(each: int = 2) -> list[Example]:
    """Some pairs of every category, always the same: short ones, whose buttons show them whole."""
    rng = np.random.default_rng(11)
    found = [FIRST]
    for category in CATEGORIES:
        sampled = {World().sample_pair(rng, category).captions for _ in range(_SAMPLED)}
        shortest = sorted(sampled, key=lambda pair: (len("".join(pair)), pair))[:each]
        found += [Example(category, first, second) for first, second in shortest]
    return found
