"""GenEval's verdicts on scenes made by hand: counts, colours, positions, exclusions, and thresholds at their boundary."""

from collections.abc import Sequence

import numpy as np
import pytest

from bench.detection.metadata import Metadata
from bench.detection.objects import DetectedObject
from bench.detection.verdict import Thresholds, Verdict, judge, keep
from tests.geneval_scenes import placed, prompt

OFFICIAL = Thresholds()


def verdict(
    metadata: Metadata,
    objects: Sequence[DetectedObject],
    colours: dict[float, str] | None = None,  # by left edge
    thresholds: Thresholds = OFFICIAL,
) -> Verdict:
    def colours_of(_: str, found: Sequence[DetectedObject]) -> list[str]:
        return [(colours or {})[one.box.left] for one in found]

    return judge(metadata, keep(objects, metadata.tag, thresholds), colours_of, thresholds)


def test_the_defaults_are_the_official_ones() -> None:
    assert Thresholds(0.3, 0.9, 16, 1.0, 0.1) == OFFICIAL


def test_all_objects_must_be_there() -> None:
    both = prompt([{"class": "dog", "count": 1}, {"class": "cat", "count": 1}])
    assert verdict(both, [placed("cat", 0), placed("dog", 9)]) == Verdict(True, "")
    assert verdict(both, [placed("dog", 9)]) == Verdict(False, "expected at least 1 cat, found 0")
    assert verdict(both, []).reason.count("\n") == 1
    assert verdict(prompt([{"class": "dog", "count": 2}]), [placed("dog", 0)] * 3).correct  # more are no fault


def test_counting_excludes_one_more() -> None:
    three = prompt([{"class": "dog", "count": 3}], "counting", exclude=[{"class": "dog", "count": 4}])
    assert [verdict(three, [placed("dog", x) for x in range(n)]).correct for n in range(6)] == [
        False, False, False, True, False, False,
    ]  # fmt: skip
    assert verdict(three, [placed("dog", 0)] * 5).reason == "expected fewer than 4 dog, found 5"


@pytest.mark.parametrize(("tag", "threshold"), [("single_object", 0.3), ("colors", 0.3), ("counting", 0.9)])
def test_a_score_must_exceed_the_threshold_of_its_tag(tag: str, threshold: float) -> None:
    """In float32, where 0.3 itself is larger than Python's 0.3."""
    at = np.float32(threshold)
    above = np.nextafter(at, np.float32(1))
    one = prompt([{"class": "dog", "count": 1}], tag)
    assert not verdict(one, [placed("dog", 0, score=float(at))]).correct
    assert verdict(one, [placed("dog", 0, score=float(above))]).correct


def test_only_the_most_confident_objects_are_asked_for_their_colour() -> None:
    """A red dog that is less confident than a blue one does not make "a red dog" true."""
    red = prompt([{"class": "dog", "count": 1, "color": "red"}], "colors")
    dogs = [placed("dog", 5, score=0.5), placed("dog", 25, score=0.6)]
    assert verdict(red, dogs, {0: "red", 20: "blue"}) == Verdict(False, "expected 1 red dog, found blue")
    assert verdict(red, dogs, {0: "blue", 20: "red"}).correct
    two = prompt([{"class": "dog", "count": 2, "color": "red"}], "colors")
    assert verdict(two, dogs, {0: "red", 20: "red"}).correct
    assert verdict(two, dogs, {0: "red", 20: "blue"}).reason == "expected 2 red dog, found blue, red"


def test_colours_are_bound_to_their_objects() -> None:
    bound = prompt(
        [{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "blue"}], "color_attr"
    )
    scene = [placed("dog", 5), placed("cat", 25)]
    assert verdict(bound, scene, {0: "red", 20: "blue"}).correct
    assert verdict(bound, scene, {0: "blue", 20: "red"}).reason == (
        "expected 1 red dog, found blue\nexpected 1 blue cat, found red"
    )


def test_colours_are_not_asked_for_when_objects_are_missing() -> None:
    red = prompt([{"class": "dog", "count": 2, "color": "red"}], "colors")
    assert verdict(red, [placed("dog", 5)]).reason == "expected at least 2 dog, found 1"  # no colour is known


def test_positions() -> None:
    left = prompt([{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}], "position")
    assert verdict(left, [placed("cat", 50), placed("dog", 0)]).correct
    assert verdict(left, [placed("cat", 0), placed("dog", 50)]).reason == "expected dog left of cat, found right of"
    assert verdict(left, [placed("cat", 0), placed("dog", 0)]).reason == "expected dog left of cat, found neither side"
    assert verdict(left, [placed("cat", 0), placed("dog", 50, 50)]).reason.endswith("found right of and below")
    assert verdict(left, [placed("dog", 0)]).reason.endswith("expected dog left of cat, found no such cat")


def test_every_object_must_lie_so_from_every_target() -> None:
    left = prompt([{"class": "cat", "count": 2}, {"class": "dog", "count": 2, "position": ["left of", 0]}], "position")
    cats = [placed("cat", 100), placed("cat", 150)]
    assert verdict(left, [*cats, placed("dog", 0), placed("dog", 40)]).correct
    assert not verdict(left, [*cats, placed("dog", 0), placed("dog", 120)]).correct
    spare = placed("dog", 200, score=0.5)  # the third most confident: not looked at
    assert verdict(left, [*cats, placed("dog", 0), placed("dog", 40), spare]).correct


def test_a_target_of_the_wrong_colour_is_no_target() -> None:
    left = prompt(
        [
            {"class": "cat", "count": 1, "color": "red"},
            {"class": "dog", "count": 1, "position": ["left of", 0]},
        ]
    )
    scene = [placed("cat", 55), placed("dog", 5)]
    assert verdict(left, scene, {50: "red"}).correct
    assert verdict(left, scene, {50: "blue"}).reason == (
        "expected 1 red cat, found blue\nexpected dog left of cat, found no such cat"
    )


def test_of_equal_scores_the_later_detection_comes_first() -> None:
    red = prompt([{"class": "dog", "count": 1, "color": "red"}], "colors")
    assert verdict(red, [placed("dog", 5), placed("dog", 25)], {0: "blue", 20: "red"}).correct
    assert not verdict(red, [placed("dog", 25), placed("dog", 5)], {0: "blue", 20: "red"}).correct


def test_the_least_confident_objects_of_a_crowd_are_dropped_before_overlaps_are() -> None:
    crowd = [placed("dog", 0, score=0.5 + n / 100) for n in range(20)] + [placed("dog", 500, score=0.4)]
    assert len(keep(crowd, "colors", OFFICIAL)["dog"]) == 16
    assert keep(crowd, "colors", OFFICIAL)["dog"][0].score == pytest.approx(0.69)
    assert len(keep(crowd, "colors", Thresholds(max_overlap=0.5))["dog"]) == 1  # the distant one was dropped before


def test_overlaps_are_kept_by_default_and_dropped_from_the_threshold_on() -> None:
    """Two boxes that share 50 of 150 pixels: an overlap of a third."""
    pair = [placed("dog", 4.5, side=9, score=0.9), placed("dog", 9.5, side=9, score=0.8)]
    counts = [len(keep(pair, "colors", Thresholds(max_overlap=limit))["dog"]) for limit in (1.0, 0.34, 1 / 3, 0.3)]
    assert counts == [2, 2, 1, 1]
    assert len(keep([pair[0], pair[0]], "colors", OFFICIAL)["dog"]) == 2


def test_kept_objects_are_in_cocos_order() -> None:
    kept = keep([placed("cat", 0), placed("person", 0), placed("dog", 0, score=0.1)], "colors", OFFICIAL)
    assert list(kept) == ["person", "cat"]


@pytest.mark.parametrize(
    "wrong",
    [{"confidence": 1.5}, {"counting": -0.1}, {"max_overlap": 2.0}, {"max_objects": 0}, {"position": float("nan")}],
)
def test_impossible_thresholds_are_refused_by_name(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name}: must be"):
        Thresholds(**wrong)  # type: ignore[arg-type]
