"""Reliability of the exact judge: its scores for right, wrong and damaged scenes, and for noise."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from pairs.judges.exact.exact_judge import ExactJudge
from pairs.layout import arrange
from pairs.render import render, render_layout
from pairs.scene import CATEGORIES, MAX_OBJECTS, TEST_ONE_IN, Group
from pairs.scores import mean
from pairs.world import ScenePair, World

Damage = Callable[[ScenePair, int, np.random.Generator], Image.Image | None]


def sample_pairs(world: World, per_category: int, seed: int = 1) -> list[ScenePair]:
    """Pairs of every category, from the train split and, one in eight, from the test split."""
    rng = np.random.default_rng([seed, 99])
    # the same share as in the world
    return [
        world.sample_pair(rng, category, "test" if number % TEST_ONE_IN == 0 else "train")
        for category in CATEGORIES
        for number in range(per_category)
    ]


def rendered(pair: ScenePair, seed: int, _: np.random.Generator) -> Image.Image:
    """The first scene, undamaged."""
    return Image.fromarray(render(pair.scenes[0], seed))


def noise(_: ScenePair, __: int, rng: np.random.Generator) -> Image.Image:
    """Uniform noise, without any scene."""
    return Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))


def noisy(pair: ScenePair, seed: int, rng: np.random.Generator) -> Image.Image:
    """The scene plus Gaussian noise of standard deviation 64 (pixel values 0–255)."""
    pixels = render(pair.scenes[0], seed) + rng.normal(0, 64, (64, 64, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def blurred(pair: ScenePair, seed: int, rng: np.random.Generator) -> Image.Image:
    """The scene under a Gaussian blur with a radius of two pixels."""
    return rendered(pair, seed, rng).filter(ImageFilter.GaussianBlur(2))


def shape_missing(pair: ScenePair, seed: int, _: np.random.Generator) -> Image.Image | None:
    """The scene without its last object; None if it has no object."""
    layout = arrange(pair.scenes[0], seed)
    if not layout.objects:
        return None
    return Image.fromarray(render_layout(replace(layout, objects=layout.objects[:-1])))


def shape_added(pair: ScenePair, seed: int, _: np.random.Generator) -> Image.Image | None:
    """The scene with one more object of its first group; None if it is full or has a sign."""
    scene = pair.scenes[0]
    if scene.sign is not None or scene.object_count == MAX_OBJECTS:
        return None
    first: Group = scene.groups[0]
    more = replace(scene, groups=(replace(first, count=first.count + 1), *scene.groups[1:]), relation=None)
    return Image.fromarray(render(more, seed))


def half_drawn(pair: ScenePair, seed: int, _: np.random.Generator) -> Image.Image | None:
    """The scene with the left half of its first object erased, or of the sign if there is no object."""
    layout = arrange(pair.scenes[0], seed)
    whole = render_layout(layout)
    empty = render_layout(replace(layout, objects=layout.objects[1:], board=layout.board if layout.objects else None))
    place = layout.objects[0] if layout.objects else layout.board
    assert place is not None
    middle = round(place.x * whole.shape[1])
    left = max(0, middle - 30)
    whole[:, left:middle] = empty[:, left:middle]
    return Image.fromarray(whole)


DAMAGES: dict[str, tuple[Damage, int]] = {  # name: (picture, index of the caption it is judged against)
    "rendered, own caption": (rendered, 0),
    "rendered, the pair's other caption": (rendered, 1),
    "uniform noise": (noise, 0),
    "noise over the scene": (noisy, 0),
    "blur of 2 px": (blurred, 0),
    "a shape missing": (shape_missing, 0),
    "a shape added": (shape_added, 0),
    "half drawn": (half_drawn, 0),
}


def check(pairs: Sequence[ScenePair]) -> dict[str, dict[str, float]]:
    """Mean score of each kind of picture, by category and overall."""
    judge = ExactJudge()
    report: dict[str, dict[str, float]] = {}
    for name, (damage, side) in DAMAGES.items():
        scores: dict[str, list[float | None]] = {}
        for seed, pair in enumerate(pairs):
            image = damage(pair, seed, np.random.default_rng([seed, 5]))
            if image is not None:
                judgement = judge([image], [pair.captions[side]])[0]
                scores.setdefault(pair.category, []).append(None if judgement is None else judgement.score)
        report[name] = {category: mean(values).value for category, values in scores.items()}
        report[name]["overall"] = mean([score for values in scores.values() for score in values]).value
    return report


def table(report: dict[str, dict[str, float]]) -> str:
    """Format the report as text, one row per kind of picture."""
    columns = (*CATEGORIES, "overall")
    lines = [f"{'judge mean':36s}" + "".join(f"{column:>12s}" for column in columns)]
    for name, row in report.items():
        cells = "".join(f"{row[column]:12.3f}" if column in row else f"{'–':>12s}" for column in columns)
        lines.append(f"{name:36s}{cells}")
    return "\n".join(lines)
