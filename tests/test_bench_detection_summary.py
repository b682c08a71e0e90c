"""GenEval's score by hand, and results files of the official evaluation."""

import json
from pathlib import Path

import pytest

from bench.detection.errors import GenEvalError
from bench.detection.metadata import TAGS
from bench.detection.results import Result, read_results
from bench.detection.summary import Share, summarise


def result(tag: str, prompt: str, correct: bool, scorer: str | None = "a") -> Result:
    return Result(
        filename=f"{prompt}/samples/0000.png",
        tag=tag,
        prompt=prompt,
        correct=correct,
        reason="",
        metadata=json.dumps({"prompt": prompt}),
        details="{}",
        scorer=None if scorer is None else {"detector": scorer},
    )


def test_the_score_is_the_mean_of_the_tags_means() -> None:
    """Tags of different size have the same weight: (1/4 + 2/2 + 0/1) / 3, not 3/7."""
    results = [result("colors", "x", correct) for correct in (False, True, False, False)]
    results += [result("counting", "y", True), result("counting", "z", True), result("position", "w", False)]
    found = summarise(results)
    assert found.score == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert dict(found.tags) == {"colors": Share(1, 4), "counting": Share(2, 2), "position": Share(0, 1)}
    assert list(found.tags) == ["colors", "counting", "position"]
    assert found.images == Share(3, 7)
    assert found.prompts == Share(3, 4)  # x, y and z have a correct picture
    assert found.missing_tags == ("single_object", "two_object", "color_attr")
    assert "colors          25.00% (1 of 4)" in str(found)
    assert "GenEval         0.41667" in str(found)


def test_the_scorer_is_named_and_two_are_not_mixed() -> None:
    ours = [result(tag, tag, True) for tag in TAGS]
    assert summarise(ours).missing_tags == ()
    assert "detector: a" in str(summarise(ours))
    assert "not named" in str(summarise([result("colors", "x", True, None)]))
    for other in ("b", None):
        with pytest.raises(GenEvalError, match="several scorers"):
            summarise([*ours, result("colors", "x", True, other)])
    with pytest.raises(GenEvalError, match="no results"):
        summarise([])


@pytest.mark.parametrize("end", ["\n", ""])
def test_official_results_are_read(tmp_path: Path, end: str) -> None:
    """Pandas escapes slashes; some of its versions write no newline at the end."""
    line = (
        '{"filename":"out\\/00000\\/samples\\/0000.png","tag":"colors","prompt":"a photo of a red dog","correct":%s,'
        '"reason":"","metadata":"{\\"tag\\": \\"colors\\"}","details":"{\\"dog\\": [[1.0, 2.0, 3.0, 4.0, 0.5]]}"}'
    )
    file = tmp_path / "results.jsonl"
    file.write_text(line % "true" + "\n" + line % "false" + end)
    results = read_results(file)
    assert [one.correct for one in results] == [True, False]
    assert results[0].place == "00000/samples/0000.png"
    assert results[0].scorer is None
    assert summarise(results).score == 0.5


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"filename": "a"}\n', r":1: no result of GenEval: tag: Field required"),
        ("{}", ":1: no result"),
        ("hello\n", ":1: no result of GenEval: Invalid JSON"),
        ("\x89PNG", ":1: no result"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, lines: str, said: str) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(lines)
    with pytest.raises(GenEvalError, match=r"results\.jsonl" + said):
        read_results(file)
