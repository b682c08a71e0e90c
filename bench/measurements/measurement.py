"""Measured numbers with what decided them, in one JSON schema."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from scipy.stats import t as student

from pairs.files import write_atomically
from pairs.scores import mean

SCHEMA = "focusdiff-numbers/1"
_LEVEL = 0.95


@dataclass(frozen=True)
class Number:
    """A measured number.

    name: unique within the measurement.
    unit: "share" (0 to 1), "ratio", "images/s", "s", "ms", "MiB" …
    better: the direction of improvement.
    low, high: ends of its 95 % interval, if there is one.
    count: cases, pictures or rounds that it is a mean of.
    """

    name: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    low: float | None = None
    high: float | None = None
    count: int | None = None

    @classmethod
    def of_rounds(cls, name: str, values: Sequence[float], unit: str, better: Literal["higher", "lower"]) -> "Number":
        """Mean of independent rounds, with Student's interval if there are two or more."""
        found = mean(values)
        if found.count < 2:
            return cls(name, found.value, unit, better, count=found.count)
        reach = float(student.ppf((1 + _LEVEL) / 2, found.count - 1)) * found.standard_error
        return cls(name, found.value, unit, better, found.value - reach, found.value + reach, found.count)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Measurement:
    """Numbers of one run of a bench.

    bench: its name.
    workload: everything that was chosen: model, judge, sizes.
    provenance: commit, command and machine (`train.provenance`).
    measured_at: UTC, in ISO 8601.
    """

    bench: str
    workload: Mapping[str, Any]
    provenance: Mapping[str, Any]
    numbers: Sequence[Number]
    measured_at: str = field(default_factory=_now)

    def write(self, file: Path) -> None:
        """Write it as JSON. Numbers that are not finite are left out: nothing was measured."""
        content = {"schema": SCHEMA, **asdict(self)}
        content["numbers"] = [number for number in content["numbers"] if math.isfinite(number["value"])]
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, file: Path) -> "Measurement":
        """Read a file of `write`.

        Raises:
            ValueError: the file cannot be read, or is no measurement of this schema.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            schema = content.pop("schema")
            if schema != SCHEMA:
                raise ValueError(f"{file}: schema is {schema!r}; this version reads {SCHEMA!r}")
            found = cls(**content | {"numbers": [Number(**row) for row in content["numbers"]]})
            datetime.fromisoformat(found.measured_at)
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror}") from None
        except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
            raise ValueError(f"{file} is no measurement") from None
        return found
