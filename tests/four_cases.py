"""Four cases of PairComp as a benchmark: the judge `ScriptedJudge` finds the red ones right."""

import json
from pathlib import Path

import pytest

from bench.benchmarks.paircomp import PairComp

CASES = [
    {"category": "Color difference", "caption1": "a red star", "caption2": "a blue star"},
    {"category": "Text difference", "caption1": "a red sign", "caption2": "a blue sign"},
    {"category": "Color difference", "caption1": "a green heart", "caption2": "a pink heart"},
    {"category": "Color difference", "caption1": "a green star", "caption2": "a pink star"},
]


@pytest.fixture
def cases_file(tmp_path: Path) -> Path:
    file = tmp_path / "PairComp.json"
    file.write_text(json.dumps(CASES))
    return file


@pytest.fixture
def paircomp(cases_file: Path) -> PairComp:
    return PairComp([cases_file])
