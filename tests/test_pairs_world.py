"""The procedural world: captions parse back, pairs differ in one factor, held-out combinations stay out."""

import re
from itertools import product

import numpy as np
import pytest

from pairs.caption import CaptionError, Wording, describe, parse
from pairs.layout import arrange, scatter
from pairs.render import render
from pairs.scene import CATEGORIES, COLOURS, FILLS, SHAPES, TONES, Category, Combination, Group, Scene, Sign
from pairs.world import World, change, sample_object, sample_scene
from train.data.scenes import SceneSource
from train.tiny.recipe import load_recipe

RECIPE = load_recipe("tiny")
WORLD = World(RECIPE.held_out)
WORDINGS = [
    Wording(lead, tone, relation, sign, one, say_day, say_solid)
    for lead, tone, relation, sign, one, say_day, say_solid in product(
        (0, 3, 4), range(3), range(2), range(3), (False, True), (False, True), (False, True)
    )
]


def scenes(count: int, seed: int = 0) -> list[tuple[Category, Scene]]:
    rng = np.random.default_rng(seed)
    return [(category, sample_scene(rng, category)) for _ in range(count) for category in CATEGORIES]


def test_every_wording_of_a_scene_parses_back_to_it() -> None:
    for i, (_, scene) in enumerate(scenes(40)):
        for wording in WORDINGS[i % 7 :: 7]:
            caption = describe(scene, wording)
            statement = parse(caption)
            assert statement.scene == scene, caption
            assert statement.names_tone == (scene.tone != "day" or wording.say_day), caption


def test_captions_that_people_would_type_are_parsed() -> None:
    assert parse("Three red circles.").scene == Scene((Group(3, "red", "circle"),))
    assert parse("3 red circles").scene == Scene((Group(3, "red", "circle"),))
    assert parse("an outlined blue star  at night").scene == Scene(
        (Group(1, "blue", "star", "outlined"),), tone="night"
    )
    assert parse('a red sign that says "cat"').scene == Scene(sign=Sign("CAT", "red"))
    assert parse("green heart").scene == Scene((Group(1, "green", "heart"),))


@pytest.mark.parametrize(
    "caption",
    [
        "", "a dog", "three red circle", "a red circles", "six red circles", "red", "a red sign that says DOGMA",
        "a red circle and a blue circle and a green circle", "two red circles above a blue star",
        "three red circles and three blue stars", "red circles",
    ],
)  # fmt: skip
def test_captions_outside_the_grammar_are_refused(caption: str) -> None:
    with pytest.raises(CaptionError):
        parse(caption)


@pytest.mark.parametrize("category", CATEGORIES)
def test_pairs_differ_in_few_words_and_keep_the_places_of_objects(category: Category) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        pair = WORLD.sample_pair(rng, category)
        first, second = pair.scenes
        assert first != second
        words = [set(re.findall(r"\w+", caption)) for caption in pair.captions]
        limit = {"style": 8}.get(category, 4)
        assert 1 <= len(words[0] ^ words[1]) <= limit, pair.captions
        if category in ("colour", "appearance", "style", "position", "text"):
            # objects keep their places, so the pictures differ in the factor only
            a, b = arrange(first, 5), arrange(second, 5)
            if category != "position":
                assert [(o.x, o.y, o.radius) for o in a.objects] == [(o.x, o.y, o.radius) for o in b.objects]


def test_changing_a_position_gives_the_opposite_relation() -> None:
    scene = Scene((Group(1, "red", "circle"), Group(1, "blue", "star")), relation="left of")
    assert change(scene, "position", np.random.default_rng(0)).relation == "right of"


def test_the_opposite_relation_of_swapped_groups_is_the_same_scene() -> None:
    a, b = Group(1, "red", "circle"), Group(1, "blue", "star")
    told = Scene((a, b), relation="left of")
    backwards = Scene((b, a), relation="right of")
    assert told.canonical == backwards.canonical
    assert told.split == backwards.split
    combination = Combination("position", colour="red", relation="left of", other_colour="blue")
    assert combination.matches(told)
    assert combination.matches(backwards)
    assert not combination.matches(Scene((b, a), relation="left of"))


def test_a_combination_must_match_within_one_group() -> None:
    combination = Combination("appearance", fill="striped", colour="red", shape="star")
    scattered = Scene((Group(1, "red", "star"), Group(1, "blue", "star", "striped")))
    assert not combination.matches(scattered)
    assert combination.matches(Scene((Group(1, "blue", "star"), Group(1, "red", "star", "striped"))))


def test_training_captions_contain_no_held_out_combination() -> None:
    """Captions are drawn as in training and checked by the parser and by independent regular expressions."""
    source = SceneSource(WORLD, RECIPE.seed, RECIPE.image_size)
    number = {"two": 2, "three": 3, "four": 4, "five": 5}
    seen = set()
    for index in range(6000):
        caption = source.caption(index, epoch=index % 3)
        scene = parse(caption).scene
        seen.add(scene.canonical)
        assert scene.split == "train", caption
        assert not any(combination.matches(scene) for combination in RECIPE.held_out), caption
        for c in RECIPE.held_out:
            if c.category == "appearance" and c.count is None:
                assert not (re.search(rf"{c.fill} {c.colour} ", caption) and f" {c.other_colour} " in caption), caption
            elif c.category in ("appearance", "counting"):
                word = next(w for w, n in number.items() if n == c.count)
                fill = f"{c.fill} " if c.fill else "(solid |striped |outlined )?"
                assert not re.search(rf"{word} {fill}{c.colour} {c.shape}s", caption), caption
            elif c.category == "text":
                assert not re.search(rf'{c.colour} sign .*"{c.text}"', caption)
            elif " sign " in caption:
                continue
            elif c.category == "colour":
                assert not (f"{c.colour} {c.shape}" in caption and f" {c.other_colour} " in caption), caption
            elif c.category == "position":
                forth, back = {"left of": ("left of", "right of"), "above": ("above|over", "below|under")}[
                    c.relation or ""
                ]
                assert not re.search(rf"{c.colour} \w+ .*({forth}) \w+ (solid )?{c.other_colour} ", caption), caption
                assert not re.search(rf"{c.other_colour} \w+ .*({back}) \w+ (solid )?{c.colour} ", caption), caption
            else:
                tone = {"night": "night", "sunset": "sunset|evening", "sketch": "pencil"}[c.tone or ""]
                two = f"two (solid )?{c.colour} {c.shape}s" if c.count else rf"{c.colour} .*{c.other_colour} "
                turned = two if c.count else rf"{c.other_colour} .*{c.colour} "
                assert not (re.search(tone, caption) and re.search(f"{two}|{turned}", caption)), caption
    assert len(seen) > 2500


def test_training_scenes_contain_no_held_out_combination() -> None:
    source = SceneSource(WORLD, RECIPE.seed, RECIPE.image_size)
    for index in range(3000):
        scene = source.scene(index)[1]
        assert scene.split == "train"
        assert not any(combination.matches(scene) for combination in RECIPE.held_out), scene


def test_crowded_pictures_have_every_look_and_separate_objects() -> None:
    looks = {
        (look.fill, look.colour, look.shape) for look in (sample_object(np.random.default_rng(i)) for i in range(900))
    }
    assert looks == set(product(FILLS, COLOURS, SHAPES))
    for seed in range(200):
        places = scatter(np.random.default_rng(seed), 9)
        assert 2 <= len(places) <= 9
        for i, (x, y, radius) in enumerate(places):
            assert radius < x < 1 - radius
            assert radius < y < 1 - radius
            for u, v, r in places[:i]:
                assert np.hypot(x - u, y - v) > radius + r + 0.04


def test_arrangements_are_mirror_symmetric() -> None:
    """Reflecting all centres about their own middle, in x or y, gives the same centres; all lie on eighths."""
    for count in range(1, 6):
        for seed in range(30):
            at = {(o.x, o.y) for o in arrange(Scene((Group(count, "red", "circle"),)), seed).objects}
            middle_x = min(x for x, _ in at) + max(x for x, _ in at)
            middle_y = min(y for _, y in at) + max(y for _, y in at)
            assert at in ({(middle_x - x, y) for x, y in at}, {(x, middle_y - y) for x, y in at})
            assert all(x * 8 % 1 == y * 8 % 1 == 0 for x, y in at)


def test_every_category_holds_out_combinations_that_can_be_drawn() -> None:
    rng = np.random.default_rng(1)
    for category in CATEGORIES:
        for _ in range(20):
            scene = WORLD.sample_held_out(rng, category)
            assert WORLD.is_held_out(scene)
            assert WORLD.allows(scene, "test")
            assert not WORLD.allows(scene, "train")


@pytest.mark.parametrize("category", CATEGORIES)
def test_held_out_scenes_are_of_kinds_that_their_category_samples(category: Category) -> None:
    """Otherwise a test would ask for scenes unlike any in training, such as small striped squares beside an object."""

    def kind(scene: Scene) -> tuple[object, ...]:
        solid = all(group.fill == "solid" for group in scene.groups)
        return tuple(group.count for group in scene.groups), scene.relation, scene.sign is None, solid

    rng = np.random.default_rng(3)
    kinds = {kind(sample_scene(rng, category)) for _ in range(3000)}
    assert {kind(WORLD.sample_held_out(rng, category)) for _ in range(300)} <= kinds


def test_test_split_is_about_an_eighth() -> None:
    splits = [scene.split for _, scene in scenes(700, seed=4)]
    assert 0.09 < splits.count("test") / len(splits) < 0.16


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2), (1, 4), (4, 1)])
def test_two_groups_are_in_separate_rows_in_the_order_of_the_caption(counts: tuple[int, int]) -> None:
    groups = (Group(counts[0], "red", "star"), Group(counts[1], "blue", "star"))
    for seed in range(30):
        objects = arrange(Scene(groups), seed).objects
        assert [o.group.colour for o in sorted(objects, key=lambda o: (o.y, o.x))] == [
            group.colour for group in groups for _ in range(group.count)
        ]
        first, second = ({o.y for o in objects if o.group == group} for group in groups)
        assert max(first) < min(second)


@pytest.mark.parametrize("count", range(1, 6))
def test_objects_have_wide_gaps_and_follow_their_relation(count: int) -> None:
    """Gaps are over 0.13 of the picture's side for three or four objects, over 0.05 for others; relations hold."""
    for seed in range(60):
        objects = arrange(Scene((Group(count, "red", "circle"),)), seed).objects
        for i, a in enumerate(objects):
            for b in objects[:i]:
                gap = np.hypot(a.x - b.x, a.y - b.y) - a.radius - b.radius
                assert gap > (0.13 if count in (3, 4) else 0.05)
    one, other = Group(1, "red", "star"), Group(1, "blue", "star")
    for seed in range(30):
        first, second = arrange(Scene((one, other), relation="below"), seed).objects
        assert first.group == one
        assert first.y > second.y
        first, second = arrange(Scene((one, other), relation="left of"), seed).objects
        assert first.x < second.x


def test_objects_never_touch_and_stay_inside() -> None:
    for seed, (_, scene) in enumerate(scenes(40, seed=8)):
        objects = arrange(scene, seed).objects
        for i, a in enumerate(objects):
            assert a.radius < a.x < 1 - a.radius
            assert a.radius < a.y < 1 - a.radius
            for b in objects[:i]:
                assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius + 0.04


def test_pictures_are_a_function_of_scene_and_seed_and_scale_with_size() -> None:
    scene = Scene((Group(2, "red", "heart"), Group(1, "blue", "star")), tone="sunset")
    assert np.array_equal(render(scene, 3), render(scene, 3))
    assert not np.array_equal(render(scene, 3), render(scene, 4))
    large = render(scene, 3, size=256).astype(float).reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(large - render(scene, 3)).mean() < 3


def test_every_fill_is_visible_in_every_tone_shape_and_colour() -> None:
    """An outlined or striped fill changes more than 32 pixels of the solid object by more than 40 levels."""
    for tone, shape, colour in product(TONES, SHAPES, COLOURS):
        base = render(Scene((Group(1, colour, shape),), tone=tone), 1).astype(int)
        empty = render(Scene((Group(1, colour, shape, "outlined"),), tone=tone), 1).astype(int)
        striped = render(Scene((Group(1, colour, shape, "striped"),), tone=tone), 1).astype(int)
        for other in (empty, striped):
            assert (np.abs(base - other).max(-1) > 40).sum() > 32, (tone, shape, colour)
