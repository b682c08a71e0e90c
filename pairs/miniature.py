"""PairShapes-Comp, PairComp's miniature: fixed pairs of unseen prompts of the procedural world.

The files have PairComp's format (`pairs.paircomp`). Choices are made on `validation`; `test` is for reports.
"""

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from pairs.paircomp import Case, read_cases
from pairs.scene import CATEGORIES
from pairs.world import World

CaseSet = Literal["validation", "test"]
PER_CATEGORY: dict[CaseSet, int] = {"validation": 20, "test": 60}
_SEEDS: dict[CaseSet, int] = {"validation": 20_260_711, "test": 20_250_711}
_FOLDER = Path(__file__).parent / "cases"


@cache
def miniature_cases(case_set: CaseSet) -> tuple[Case, ...]:
    """Cases of a set, ordered by category."""
    return read_cases(cases_file(case_set))


def cases_file(case_set: CaseSet) -> Path:
    """File of a set's cases."""
    return _FOLDER / f"{case_set}.json"


def sample_cases(world: World, case_set: CaseSet) -> list[dict[str, str]]:
    """Sample what the file of a set holds.

    In two cases of five, the first scene has a combination that training never shows. No caption occurs twice, or in
    both sets.
    """
    tests = sample_cases(world, "test") if case_set == "validation" else []
    taken = {row[name] for row in tests for name in ("caption1", "caption2")}
    rows: list[dict[str, str]] = []
    for number, category in enumerate(CATEGORIES):
        rng = np.random.default_rng([_SEEDS[case_set], number])
        while len(rows) < (number + 1) * PER_CATEGORY[case_set]:
            held_out = len(rows) % 5 < 2
            pair = world.sample_held_out_pair(rng, category) if held_out else world.sample_pair(rng, category, "test")
            first, second = pair.captions
            if taken.isdisjoint(pair.captions):
                taken |= set(pair.captions)
                rows.append({"category": f"{category} difference", "caption1": first, "caption2": second})
    return rows
