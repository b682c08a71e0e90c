"""Rows of JSON that are appended as they come, from which a stopped run resumes."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pairs.files import write_atomically


class OtherIdentity(ValueError):
    """A file belongs to something else; the message names the file."""


class JsonLines:
    """A file whose first line identifies its rows.

    A kill may cut the last line short; it is dropped when the file is opened again.

    Args:
        file: made if missing.
        identity: what the rows belong to.

    Raises:
        OtherIdentity: the file has another identity.
        ValueError: a line is no JSON object; the message names it.
    """

    def __init__(self, file: Path, identity: Mapping[str, Any]) -> None:
        self.file = file
        lines = whole_lines(file) or [json.dumps(identity)]
        if lines[0] != json.dumps(identity):
            raise OtherIdentity(f"{file} belongs to something else")
        self.rows = _rows(file, lines)[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda partial: partial.write_text("".join(line + "\n" for line in lines)))

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; they are in the file when this returns.

        Raises:
            OSError: the file cannot be written; the error names it.
        """
        new = [dict(row) for row in rows]
        try:
            with open(self.file, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
        except OSError as error:  # a full disk: found when writing, names no file
            raise OSError(error.errno, error.strerror, str(self.file)) from error
        self.rows += new


def read_json_lines(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Identity and rows of a file.

    Raises:
        ValueError: the file is missing or empty, or a line is no JSON object; the message names it.
    """
    lines = whole_lines(file)
    if not lines:
        raise ValueError(f"{file} is missing or empty")
    identity, *rows = _rows(file, lines)
    return identity, rows


def whole_lines(file: Path) -> list[str]:
    """Lines of a file, without one that a kill cut short: it has no newline."""
    return file.read_text().split("\n")[:-1] if file.exists() else []


def _rows(file: Path, lines: Iterable[str]) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            raise ValueError(f"{file}, line {number} is not JSON") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number} is no JSON object")
        rows.append(row)
    return rows
