"""A leaderboard: numbers of several runs, one row for each, one table for each benchmark and scorer."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from bench.measurements.measurement import Measurement, Number
from bench.pictures.errors import RunError
from bench.report.numbers import FOLDER

_PAIRCOMP_MEASURES = ("s_a ", "s_g ")  # of a table; the page has the others


@dataclass(frozen=True)
class Row:
    """A run's numbers by one scorer."""

    model: str
    settings: str
    numbers: dict[str, Number]


@dataclass(frozen=True)
class Table:
    """Runs that can be compared: of the same prompts, by the same scorer."""

    title: str
    rows: tuple[Row, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the numbers, in the order of the first row that has each."""
        return list(dict.fromkeys(name for row in self.rows for name in row.numbers))

    @property
    def cells(self) -> list[list[str]]:
        """Text of the header and of all rows."""
        header = ["model", "sampling", *self.columns]
        return [header, *([row.model, row.settings, *map(_cell, self._numbers(row))] for row in self.rows)]

    def _numbers(self, row: Row) -> list[Number | None]:
        return [row.numbers.get(name) for name in self.columns]


def tables(folders: Sequence[Path]) -> list[Table]:
    """Tables of runs.

    Raises:
        RunError: a folder has no numbers; the message names it.
        ValueError: numbers are damaged.
    """
    found: dict[tuple[str, ...], list[Row]] = {}
    for folder in folders:
        files = sorted((folder / FOLDER).glob("*.json"))
        if not files:
            raise RunError(f"{folder} has no numbers: focusdiff-bench report {folder} writes them")
        for file in files:
            measurement = Measurement.read(file)
            workload = measurement.workload
            if "benchmark" not in workload or "scorer" not in workload:
                raise RunError(f"{file} is not of a benchmark of models")
            key = (measurement.bench, str(workload["scorer"]), workload["benchmark"]["digest"])
            paircomp = measurement.bench == "paircomp"
            kept = {
                one.name: one for one in measurement.numbers if not paircomp or one.name.startswith(_PAIRCOMP_MEASURES)
            }
            found.setdefault(key, []).append(Row(_model(workload), _settings(workload), kept))
    return [
        Table(f"{bench}, scored by {scorer}, prompts {digest}", tuple(rows))
        for (bench, scorer, digest), rows in sorted(found.items())
    ]


def as_markdown(found: Sequence[Table]) -> Iterator[str]:
    """Lines of Markdown."""
    for table in found:
        yield f"**{table.title}**"
        yield ""
        header, *rows = ([text.replace("|", "\\|") for text in row] for row in table.cells)
        yield f"| {' | '.join(header)} |"
        yield f"|{'---|' * len(header)}"
        for row in rows:
            yield f"| {' | '.join(row)} |"
        yield ""


def as_csv(found: Sequence[Table]) -> str:
    """Rows of (table, model, sampling, name, value, low, high, count)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "model", "sampling", "name", "value", "low", "high", "count"])
    for table in found:
        for row in table.rows:
            for one in row.numbers.values():
                writer.writerow(
                    [table.title, row.model, row.settings, one.name, one.value, one.low, one.high, one.count]
                )
    return text.getvalue()


def as_html(found: Sequence[Table]) -> str:
    """A page of all tables."""
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>Benchmarks</title>", _STYLE]
    for table in found:
        header, *rows = table.cells
        parts.append(f"<h2>{escape(table.title)}</h2><table><tr>{''.join(f'<th>{escape(one)}' for one in header)}")
        parts += [f"<tr>{''.join(f'<td>{escape(one)}' for one in row)}" for row in rows]
        parts.append("</table>")
    return "\n".join(parts) + "\n"


_STYLE = (
    "<style>body{font:15px system-ui;margin:1rem}table{border-collapse:collapse}"
    "td,th{border-bottom:1px solid #8884;padding:.2rem .8rem .2rem 0;text-align:left}</style>"
)


def _model(workload: Mapping[str, Any]) -> str:
    generator = workload["generator"]
    return str(generator.get("model") or generator["generator"])


def _settings(workload: Mapping[str, Any]) -> str:
    """Sampling settings, and what else decides the pictures of a model where it is not the default."""
    generator, seed = workload["generator"], workload["benchmark"]["seed"]
    shown = [f"{name} {value}" for name, value in generator.get("sampling", {}).items()]
    shown += [f"best of {generator['best of']}"] if "best of" in generator else []
    shown += [generator["quantization"]] if generator.get("quantization") else []
    shown += [f"seed {seed}"] if seed else []
    return ", ".join(shown)


def _cell(number: Number | None) -> str:
    if number is None:
        return ""
    scale = 100 if number.unit == "share" else 1
    interval = (
        "" if number.low is None or number.high is None else f" ({scale * number.low:.1f}–{scale * number.high:.1f})"
    )
    return f"{scale * number.value:.1f}{interval}"
