"""Rows of JSON that a stopped run goes on from."""

from pathlib import Path

import pytest

from bench.json_lines import JsonLines, OtherIdentity, read_json_lines


def test_a_line_that_a_kill_cut_short_is_dropped_and_rows_go_on(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    JsonLines(file, {"a": 1}).append([{"row": 1}, {"row": 2}])
    file.write_bytes(file.read_bytes()[:-3])
    again = JsonLines(file, {"a": 1})
    assert again.rows == [{"row": 1}]
    again.append([{"row": 3}])
    assert read_json_lines(file) == ({"a": 1}, [{"row": 1}, {"row": 3}])


def test_another_identity_is_refused(tmp_path: Path) -> None:
    JsonLines(tmp_path / "rows.jsonl", {"a": 1})
    with pytest.raises(OtherIdentity, match=r"rows\.jsonl belongs to something else"):
        JsonLines(tmp_path / "rows.jsonl", {"a": 2})


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "rows.jsonl", {"a": 1})
    lines.file = Path("/dev/full")
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        lines.append([{"row": 1}])


@pytest.mark.parametrize(
    ("line", "said"), [("row 2", "is not JSON"), ("[2]", "is no JSON object"), ("2", "is no JSON")]
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"a": 1}}\n{{"row": 1}}\n{line}\n')
    for read in (lambda: JsonLines(file, {"a": 1}), lambda: read_json_lines(file)):
        with pytest.raises(ValueError, match=rf"rows\.jsonl, line 3 {said}"):
            read()
