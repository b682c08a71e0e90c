"""Edited pictures: before, after, and the instruction of the edit."""

import json
from dataclasses import dataclass
from pathlib import Path

from train.data.row import Picture, PictureFile
from train.errors import DataError

_KEYS = ("before", "after", "instruction")


@dataclass(frozen=True)
class Triple:
    """An edit: two pictures, and the instruction that turned one into the other."""

    before: Picture
    after: Picture
    instruction: str


def read_triples(file: Path) -> list[Triple]:
    """Read a JSON list of {"before", "after", "instruction"}; pictures are paths relative to the file.

    Raises:
        DataError: the file is not a list of such objects.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(content, list) or not content:
        raise DataError(f"{file} must be a JSON list with at least one object")
    triples = []
    for number, value in enumerate(content):
        if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in _KEYS):
            raise DataError(f"{file}, row {number}: must be an object with the texts {', '.join(_KEYS)}")
        before, after = (PictureFile(file.parent / value[key]) for key in ("before", "after"))
        triples.append(Triple(before, after, value["instruction"]))
    return triples
