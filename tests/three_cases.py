"""Three cases of PairComp as a benchmark, and what runs of them leave."""

import json
from pathlib import Path

import pytest

from bench.benchmarks.paircomp import PairComp

CASES = [
    {"category": "Color difference", "caption1": "a red star", "caption2": "a blue star"},
    {"category": "Text difference", "caption1": 'a red sign that says "SUN"', "caption2": 'a red sign that says "RUN"'},
    {"category": "Color difference", "caption1": "a green heart", "caption2": "a yellow heart"},
]


@pytest.fixture
def cases_file(tmp_path: Path) -> Path:
    file = tmp_path / "PairComp.json"
    file.write_text(json.dumps(CASES))
    return file


@pytest.fixture
def paircomp(cases_file: Path) -> PairComp:
    return PairComp([cases_file])


def content(folder: Path) -> dict[str, bytes]:
    """Content of all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
