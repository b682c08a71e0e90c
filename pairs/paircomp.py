"""PairComp's cases, in the format of FocusDiff's authors: pairs of prompts by category (paper, section 4)."""

import json
from dataclasses import dataclass
from pathlib import Path

_FIELDS = ("category", "caption1", "caption2")
_SUFFIX = " difference"  # ends every category's name in the file


class PairCompError(ValueError):
    """Unusable file of cases; the message names the file, the case and the field."""


@dataclass(frozen=True)
class Case:
    """Two prompts that differ in one respect; `number` is the case's index in the file, from 0."""

    number: int
    category: str
    prompts: tuple[str, str]


def read_cases(path: Path) -> tuple[Case, ...]:
    """Read cases from a JSON file: a list of objects with category, caption1 and caption2.

    Raises:
        PairCompError: the file cannot be read, or a case lacks a field.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PairCompError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise PairCompError(f"{path}: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise PairCompError(f"{path}: must be a list of cases")
    return tuple(_case(path, number, row) for number, row in enumerate(rows))


def _case(path: Path, number: int, row: object) -> Case:
    if not isinstance(row, dict):
        raise PairCompError(f"{path}: case {number} must be an object, not {type(row).__name__}")
    for name in _FIELDS:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise PairCompError(f"{path}: case {number} has no text in {name}")
    category, first, second = (row[name].strip() for name in _FIELDS)
    return Case(number, category.removesuffix(_SUFFIX), (first, second))
