"""Measured numbers with what decided them, in one JSON schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pairs.files import write_atomically

SCHEMA = "focusdiff-numbers/1"


@dataclass(frozen=True)
class Number:
    """A measured number.

    name: unique within the measurement.
    unit: "share" (0 to 1), "images/s", "s", "ms", "MB", "ratio" …
    better: the direction of improvement.
    low, high: ends of its 95 % interval, if there is one.
    count: how many cases, pictures or rounds it is a mean of.
    """

    name: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    low: float | None = None
    high: float | None = None
    count: int | None = None


def write_numbers(
    file: Path, *, bench: str, workload: Mapping[str, Any], provenance: Mapping[str, Any], numbers: Sequence[Number]
) -> None:
    """Write a measurement.

    Args:
        file: JSON.
        bench: name of the bench.
        workload: everything that was chosen: model, judge, sizes.
        provenance: commit, command and machine (`train.provenance`).
        numbers: the results.
    """
    content = {
        "schema": SCHEMA,
        "bench": bench,
        "workload": dict(workload),
        "provenance": dict(provenance),
        "numbers": [asdict(number) for number in numbers],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_numbers(file: Path) -> tuple[dict[str, Any], list[Number]]:
    """A measurement: everything but its numbers, and these.

    Raises:
        ValueError: the file cannot be read, or is no measurement of this schema.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"{file}: schema is {content['schema']!r}; this version reads {SCHEMA!r}")
        numbers = [Number(**row) for row in content.pop("numbers")]
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{file} is no measurement") from None
    return content, numbers
