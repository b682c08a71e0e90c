"""GenEval's metadata: read and written as it was, and refused with the file, line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.detection.errors import GenEvalError
from bench.detection.metadata import read_metadata

GOOD: dict[str, Any] = {
    "tag": "position",
    "include": [
        {"class": "computer mouse", "count": 1, "color": "red"},
        {"class": "dog", "count": 2, "position": ["left of", 0]},
    ],
    "exclude": [{"class": "dog", "count": 3}],
    "prompt": "a photo of two dogs left of a computer mouse – “big”",
}


def test_a_prompt_is_written_as_it_was_read(tmp_path: Path) -> None:
    """The official summary takes prompts of equal text as one."""
    short = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text("".join(json.dumps(one) + "\r\n" for one in (GOOD, short)), newline="")
    assert [one.as_json() for one in read_metadata(file)] == [json.dumps(GOOD), json.dumps(short)]


def changed(path: str, value: object) -> dict[str, Any]:
    """GOOD with one field replaced, or removed if the value is ..."""
    copy: Any = json.loads(json.dumps(GOOD))
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place = copy
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return dict(copy)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("tag", "colour", "tag: Input should be 'single_object', "),
        ("tag", ..., "tag: Field required"),
        ("prompt", ..., "prompt: Field required"),
        ("include", [], "include: Tuple should have at least 1 item"),
        ("include.0.class", "unicorn", "include.0.class: 'unicorn' is not one of GenEval's 80 objects"),
        ("include.0.class", "mouse", "include.0.class: 'mouse' is not one"),
        ("include.0.count", 0, "include.0.count: "),
        ("include.0.count", True, "include.0.count: "),
        ("include.0.count", "1", "include.0.count: "),
        ("include.0.color", "teal", "include.0.color: 'teal' is not one of GenEval's 10 colours"),
        ("include.0.colour", "red", "include.0.colour: Extra inputs are not permitted"),
        ("include.1.position", ["near", 0], "include.1.position.0: "),
        ("include.1.position", ["left of", 1], "include.1.position.1: must be the number of an earlier clause"),
        ("include.1.position", ["left of", -1], "include.1.position.1: must be the number of an earlier clause"),
        ("include.0.position", ["left of", 1], "include.0.position.1: must be the number of an earlier clause"),
        ("exclude.0.count", ..., "exclude.0.count: Field required"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(tmp_path: Path, field: str, value: object, said: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(changed(field, value)) + "\n")
    with pytest.raises(GenEvalError) as error:
        read_metadata(file)
    assert str(error.value).startswith(f"{file}:2: {said}")
    assert "\n" not in str(error.value)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    for content, said in ((b"", "has no prompt"), (b"a photo of a dog\n", ":1: Invalid JSON"), (b"[1]\n", ":1: ")):
        file.write_bytes(content)
        with pytest.raises(GenEvalError, match=rf"prompts\.jsonl.*{said}"):
            read_metadata(file)
    with pytest.raises(GenEvalError, match=r"missing\.jsonl: No such file"):
        read_metadata(tmp_path / "missing.jsonl")
