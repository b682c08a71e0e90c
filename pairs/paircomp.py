"""PairComp's cases, as FocusDiff's authors published them: pairs of prompts by category (paper, section 4)."""

import json
from dataclasses import dataclass
from pathlib import Path

_FIELDS = ("category", "caption1", "caption2")
_SUFFIX = " difference"  # of every category's name in the file


class PairCompError(ValueError):
    """A file of cases that cannot be used; the message names it, and the case and field."""


@dataclass(frozen=True)
class Case:
    """Two prompts that differ in one respect; `number` is the case's place in the file, from 0."""

    number: int
    category: str
    prompts: tuple[str, str]


def read_cases(path: Path) -> tuple[Case, ...]:
    """The cases of a JSON file: a list of objects with category, caption1 and caption2.

    Raises:
        PairCompError: it cannot be read, or a case lacks something.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PairCompError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # not text, or not JSON
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
