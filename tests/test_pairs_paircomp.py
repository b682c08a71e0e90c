"""PairComp's file: reading cases, searching them, and errors of unusable files."""

import json
from pathlib import Path
from typing import Any

import pytest

from pairs.paircomp import Case, PairCompError, read_cases
from ui.paircomp import matching

ROWS = [
    {"category": "Color difference", "caption1": "a red car", "caption2": " a blue car "},
    {"category": "Counting difference", "caption1": "three cats on a car", "caption2": "four cats on a car"},
    {"category": "Style & Tone difference", "caption1": "a CAR, 1 wheel", "caption2": "a sketch of a wheel"},
]


def written(folder: Path, content: str) -> Path:
    path = folder / "PairComp.json"
    path.write_text(content)
    return path


def test_cases_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    cases = read_cases(written(tmp_path, json.dumps(ROWS)))
    assert cases[0] == Case(0, "Color", ("a red car", "a blue car"))
    assert [(case.number, case.category) for case in cases[1:]] == [(1, "Counting"), (2, "Style & Tone")]


@pytest.mark.parametrize(
    ("category", "text", "numbers"),
    [
        (None, "", [0, 1, 2]),
        ("Counting", "", [1]),
        (None, "car", [0, 1, 2]),
        (None, "CAR three", [1]),
        (None, "three four", []),  # the words are in different prompts; one prompt must have all
        (None, "1", [1, 2]),  # case 1 by its number, case 2 by the word 1
        ("Color", "1", []),
        (None, "9", []),
    ],
)
def test_cases_are_found_by_category_words_and_number(
    tmp_path: Path, category: str | None, text: str, numbers: list[int]
) -> None:
    cases = read_cases(written(tmp_path, json.dumps(ROWS)))
    assert [case.number for case in matching(cases, category, text)] == numbers


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "must be a list of cases"),
        ('{"category": "x"}', "must be a list of cases"),
        (json.dumps([ROWS[0], 5]), "case 1 must be an object, not int"),
        (json.dumps([{**ROWS[0], "caption2": "  "}]), "case 0 has no text in caption2"),
        (json.dumps([*ROWS, {"category": "x", "caption1": "a"}]), "case 3 has no text in caption2"),
        (json.dumps([{**ROWS[0], "category": 3}]), "case 0 has no text in category"),
    ],
)
def test_a_malformed_file_is_named_with_the_faulty_case(tmp_path: Path, content: Any, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(PairCompError) as error:
        read_cases(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(PairCompError, match=r"none\.json: No such file"):
        read_cases(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PairCompError, match=r"bytes\.json: "):
        read_cases(tmp_path / "bytes.json")
