"""The exact judge: scores near 1 for correct pictures, near 0 for wrong, damaged or empty ones."""

import json
from pathlib import Path

import pytest
from PIL import Image

from bench.world.judge_check import DAMAGES, check, sample_pairs
from pairs.caption import parse
from pairs.judges.exact.exact_judge import ExactJudge, compare
from pairs.judges.exact.reading import ObjectReading, Reading
from pairs.render import render
from pairs.scene import CATEGORIES, COLOURS, SHAPES, TONES, Group, Scene
from pairs.scores import arithmetic_mean, geometric_mean, mean
from pairs.world import World
from tests.tiles import tiles


@pytest.fixture(scope="module")
def report() -> dict[str, dict[str, float]]:
    return check(sample_pairs(World(), 12))


@pytest.mark.parametrize("category", CATEGORIES)
def test_rendered_scenes_score_near_1(report: dict[str, dict[str, float]], category: str) -> None:
    assert report["rendered, own caption"][category] >= 0.98


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "rendered, own caption"])
def test_wrong_and_damaged_pictures_score_near_0(report: dict[str, dict[str, float]], damage: str) -> None:
    assert report[damage]["overall"] <= 0.05


def test_only_the_factor_of_the_wrong_attribute_is_0() -> None:
    image = Image.fromarray(render(Scene((Group(2, "red", "circle"),)), 1))
    judge = ExactJudge()
    right, colour, shape, count, tone, fill = judge(
        [image] * 6,
        [
            "two red circles", "two blue circles", "two red stars", "three red circles", "two red circles at night",
            "two striped red circles",
        ],
    )  # fmt: skip
    assert right is not None
    assert right.score == 1
    for judgement, factor in ((colour, "colour"), (shape, "shape"), (count, "count"), (tone, "tone"), (fill, "fill")):
        assert judgement is not None
        assert judgement.score == 0
        assert [name for name, value in judgement.factors.items() if value == 0] == [factor]


def test_the_worst_object_counts_and_factors_multiply() -> None:
    looks = {"colours": dict.fromkeys(COLOURS, 1.0), "shapes": dict.fromkeys(SHAPES, 1.0), "fills": {"solid": 1.0}}
    objects = tuple(ObjectReading(x=x, y=0.5, radius=0.1, drawn=drawn, **looks) for x, drawn in ((0.3, 0.5), (0.7, 1)))  # type: ignore[arg-type]
    reading = Reading(dict.fromkeys(TONES, 1.0), backdrop=0.8, objects=objects, board=None, clean=1.0)
    judgement = compare(reading, parse("two red circles"))
    assert judgement.factors["drawn"] == 0.5
    assert judgement.score == pytest.approx(0.4)


def test_a_prompt_outside_the_grammar_is_not_judged() -> None:
    image = Image.fromarray(render(Scene((Group(1, "red", "circle"),)), 1))
    assert ExactJudge()([image], ["a cat on a sofa"]) == [None]


def test_any_picture_size_is_read() -> None:
    scene = Scene((Group(3, "green", "heart"),), tone="night")
    image = Image.fromarray(render(scene, 2, size=384))
    judgement = ExactJudge()([image], ["three green hearts at night"])[0]
    assert judgement is not None
    assert judgement.score > 0.95


def test_paircomp_means() -> None:
    # by hand: (1 + 0.5 + 0.25 + 0.5) / 4 and (1 · 0.5 · 0.25 · 0.5) ** (1/4)
    scores = [1.0, 0.5, 0.25, 0.5]
    assert arithmetic_mean(scores) == 0.5625
    assert geometric_mean(scores) == pytest.approx(0.5)
    assert geometric_mean([1.0, 0.0, 1.0, 1.0]) == 0


def test_a_failed_judgement_is_not_a_zero() -> None:
    result = mean([1.0, None, 0.5])
    assert (result.value, result.count, result.missing) == (0.75, 2, 1)
    assert result.standard_error == pytest.approx(0.25)  # s = √0.125, over √2
    with pytest.raises(ValueError, match="none of 2"):
        mean([None, None])


def test_one_judgement_has_no_spread_to_print() -> None:
    assert str(mean([0.5])) == "0.500"
    assert str(mean([1.0, 0.5])) == "0.750 ± 0.250"


def test_the_judge_agrees_with_people_on_generated_pictures() -> None:
    """60 pictures that the shipped models drew for random unseen prompts, labelled by eye."""
    folder = Path(__file__).parent / "labelled"
    labels = json.loads((folder / "labels.json").read_text())
    judgements = ExactJudge()(tiles(folder / "pictures.png", len(labels)), [label["caption"] for label in labels])
    agreed = [(j is not None and j.score >= 0.5) == label["shown"] for j, label in zip(judgements, labels, strict=True)]
    assert len(labels) == 60
    assert 10 <= sum(label["shown"] for label in labels) <= 50  # both labels occur
    assert sum(agreed) >= 57
