"""The fixed cases of PairShapes-Comp: what was sampled, unseen, and different in what their category says."""

import json
from collections import Counter
from collections.abc import Callable

import pytest

from pairs.caption import parse
from pairs.miniature import _FOLDER, PER_CATEGORY, CaseSet, miniature_cases, sample_cases
from pairs.scene import CATEGORIES, Scene
from pairs.world import World
from train.tiny.recipe import load_recipe

WORLD = World(load_recipe("tiny").held_out)
SETS: tuple[CaseSet, ...] = ("validation", "test")


def scenes(case_set: CaseSet) -> list[tuple[str, Scene, Scene]]:
    return [
        (case.category, *(parse(prompt).scene for prompt in case.prompts))  # type: ignore[misc]
        for case in miniature_cases(case_set)
    ]


@pytest.mark.parametrize("case_set", SETS)
def test_the_file_is_what_is_sampled(case_set: CaseSet) -> None:
    assert json.loads((_FOLDER / f"{case_set}.json").read_text()) == sample_cases(WORLD, case_set)


@pytest.mark.parametrize("case_set", SETS)
def test_all_scenes_are_unseen_and_two_in_five_cases_hold_a_combination_out(case_set: CaseSet) -> None:
    found = scenes(case_set)
    assert Counter(category for category, _, _ in found) == dict.fromkeys(CATEGORIES, PER_CATEGORY[case_set])
    assert all(WORLD.allows(scene, "test") for _, *both in found for scene in both)
    held_out = sum(WORLD.is_held_out(first) for _, first, _ in found)
    assert held_out >= 2 * len(found) / 5


def test_a_case_differs_in_its_category_alone() -> None:
    """Each of the factors that a category is not about is the same in both scenes."""
    factors: dict[str, Callable[[Scene], object]] = {
        "appearance": lambda scene: [group.fill for group in scene.groups],
        "colour": lambda scene: [group.colour for group in scene.groups],
        "counting": lambda scene: [group.count for group in scene.groups],
        "position": lambda scene: scene.relation,
        "style": lambda scene: scene.tone,
        "text": lambda scene: scene.sign,
    }
    for category, first, second in scenes("test"):
        assert [name for name, read in factors.items() if read(first) != read(second)] == [category]


def test_the_sets_share_no_prompt() -> None:
    sets = [{prompt for case in miniature_cases(case_set) for prompt in case.prompts} for case_set in SETS]
    assert [len(prompts) for prompts in sets] == [2 * 120, 2 * 360]
    assert not sets[0] & sets[1]
