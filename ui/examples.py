"""Example pairs from the procedural world, for each category of PairComp."""

from typing import NamedTuple

import numpy as np

from pairs.scene import CATEGORIES
from pairs.world import World

_SAMPLED = 60  # candidates per category


class Example(NamedTuple):
    """Two prompts that differ in one aspect."""

    category: str
    first: str
    second: str


FIRST = Example("counting", "three red circles", "four red circles")


def examples(each: int = 2) -> list[Example]:
    """A fixed set with `each` pairs per category, the shortest candidates, so that buttons show them in full."""
    rng = np.random.default_rng(11)
    found = [FIRST]
    for category in CATEGORIES:
        sampled = {World().sample_pair(rng, category).captions for _ in range(_SAMPLED)}
        shortest = sorted(sampled, key=lambda pair: (len("".join(pair)), pair))[:each]
        found += [Example(category, first, second) for first, second in shortest]
    return found
