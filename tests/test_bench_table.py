"""The leaderboard of several runs."""

import csv
import io
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from bench.benchmarks.geneval2 import GenEval2
from bench.command import main
from bench.measurements.measurement import Number
from bench.pictures.errors import RunError
from bench.pictures.from_engine import EngineGenerator
from bench.pictures.generator import Generator
from bench.report.numbers import write_scorer
from bench.report.table import as_csv, as_html, as_markdown, tables
from model.checkpoints.load import load
from model.quantization import Quantization
from tests.coloured_generator import ColouredGenerator
from tests.ended import Ended
from tests.locked_runs import draw_run


def made(
    folder: Path, model: str, prompt: str, *, generator: Generator | None = None, seed: int = 0, **values: float
) -> Path:
    """A run of GenEval 2 on one prompt, with numbers."""
    file = folder / f"{prompt}.jsonl"
    file.write_text(json.dumps({"prompt": prompt, "atom_count": 3, "vqa_list": [["a?", "Yes"]], "skills": ["object"]}))
    run = folder / f"{model} {prompt}"
    draw_run(GenEval2([file], seed=seed), generator or ColouredGenerator(model=model), run)
    numbers = [Number(name, value, "share", "higher", value - 0.01, value + 0.01) for name, value in values.items()]
    write_scorer(run, "official", numbers)
    return run


def test_runs_of_the_same_prompts_share_a_table(tmp_path: Path) -> None:
    first = made(tmp_path, "a|b", "a cup", overall=0.5)
    second = made(tmp_path, "<c>", "a cup", overall=0.25, more=0.1)
    other = made(tmp_path, "a|b", "a pig", overall=0.75)
    found = tables([first, other, second])
    assert sorted(len(table.rows) for table in found) == [1, 2]
    (two,) = [table for table in found if len(table.rows) == 2]
    sampling = "guidance_scale 2.0"
    assert two.cells == [
        ["model", "sampling", "overall", "more"],
        ["a|b", sampling, "50.0 (49.0–51.0)", ""],
        ["<c>", sampling, "25.0 (24.0–26.0)", "10.0 (9.0–11.0)"],
    ]
    lines = list(as_markdown([two]))
    assert lines[2:5] == [
        "| model | sampling | overall | more |",
        "|---|---|---|---|",
        f"| a\\|b | {sampling} | 50.0 (49.0–51.0) |  |",
    ]
    rows = list(csv.DictReader(io.StringIO(as_csv([two]))))
    assert [(row["model"], row["name"], float(row["value"])) for row in rows] == [
        ("a|b", "overall", 0.5),
        ("<c>", "overall", 0.25),
        ("<c>", "more", 0.1),
    ]
    assert "<td>&lt;c&gt;" in as_html([two])


ROUNDED: tuple[Quantization | None, ...] = (None, "int8")


def test_rows_tell_8_bit_weights_and_seeds(small_folder: Path, tmp_path: Path) -> None:
    """Runs of one model that differ in them only."""
    janus = load(small_folder, device="cpu")
    runs = [
        made(
            tmp_path,
            f"{quantization} {seed}",
            "a cup",
            generator=EngineGenerator(janus, slots=1, quantization=quantization),
            seed=seed,
            overall=0.5,
        )
        for quantization, seed in product(ROUNDED, (0, 3))
    ]
    (found,) = tables(runs)
    sampling = ", ".join(f"{name} {value}" for name, value in janus.sampling.as_dict().items())
    assert [row.settings for row in found.rows] == [
        sampling,
        f"{sampling}, seed 3",
        f"{sampling}, int8",
        f"{sampling}, int8, seed 3",
    ]


def test_the_command_prints_and_writes_tables(command: Callable[..., Ended], tmp_path: Path) -> None:
    run = made(tmp_path, "a", "a cup", overall=0.5)
    ended = command(main, "table", run, "--csv", tmp_path / "t.csv", "--html", tmp_path / "t.html")
    assert ended.code == 0, ended.err
    assert "**geneval2, scored by official, prompts " in ended.out
    assert "overall,0.5" in (tmp_path / "t.csv").read_text()
    assert (tmp_path / "t.html").read_text().startswith("<!doctype html>")


def test_a_folder_without_numbers_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nothing has no numbers"):
        tables([tmp_path / "nothing"])
    run = made(tmp_path, "a", "a cup", overall=0.5)
    (run / "numbers" / "official.json").write_text('{"schema": "other/9"}')
    with pytest.raises(ValueError, match="schema is 'other/9'"):
        tables([run])
