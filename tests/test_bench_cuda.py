"""`focusdiff-bench cuda`: its dry run with few packages, its deadlines, its floors."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.command import main
from bench.cuda.parts import PARTS, Failure, Part, run_parts
from bench.cuda.result import Result
from bench.cuda.table import Table, ratios
from tests.ended import Ended
from tests.tools import needs_kernels

ROOT = Path(__file__).parent.parent
HIDING = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] in HIDDEN else find(name, *more)
"""


def packages_of(*names: str) -> set[str]:
    """Distributions that these need, themselves included, in normal spelling."""
    needed: set[str] = set()
    left = list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in needed:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        needed.add(name)
        left += [re.split(r"[ ;<>=!~\\[(]", one)[0] for one in requirements if "extra ==" not in one]
    return needed


@pytest.mark.long
@needs_kernels
def test_all_parts_run_with_few_packages(tmp_path: Path) -> None:
    """A machine with a GPU may have PyTorch, Triton, transformers and Pillow only, with what these need."""
    kept = packages_of("torch", "transformers", "triton", "pillow")
    owners = importlib.metadata.packages_distributions()
    hidden = {
        top
        for top, owned_by in owners.items()
        if not kept & {re.sub(r"[-_.]+", "-", one).lower() for one in owned_by}
        and top not in ("model", "serve", "bench", "train", "pairs", "ui")
    }
    assert {"psutil", "scipy", "gradio", "fastapi"} <= hidden
    (tmp_path / "sitecustomize.py").write_text(f"HIDDEN = {hidden!r}\n{HIDING}")
    command = [sys.executable, "-m", "bench.command", "cuda", "--dry", "--out", str(tmp_path / "found.jsonl")]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert lines[0]["dry"]
    assert list(dict.fromkeys(line["part"] for line in lines[1:])) == list(PARTS)
    assert all(line["seconds"] > 0 for line in lines[1:])
    for part in PARTS:
        assert f"\n{part} " in ended.stdout
    assert "transformers, 1 images ÷ engine" in ended.stdout


def test_a_part_that_fails_or_is_late_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One ends its process, one raises, one takes too long, and the last one is measured nevertheless."""
    for name, function in (("ends", "end"), ("raises", "fail"), ("late", "sleep"), ("last", "measure")):
        monkeypatch.setitem(PARTS, name, Part("tests.cuda_parts", function, 1 if name == "late" else 240))
    chosen = ["ends", "raises", "late", "last"]
    found = list(run_parts(chosen, geometry="", images=[1], dry=True, out=tmp_path / "found.jsonl"))
    assert found == [
        Result("ends", "before", 1.0),
        Failure("ends", "its process ended with 7"),
        Failure("raises", "RuntimeError: no such kernel"),
        Failure("late", "not done after 1 seconds"),
        Result("last", "done", 2.0),
    ]
    lines = (tmp_path / "found.jsonl").read_text().splitlines()
    assert [json.loads(line).get("failed") for line in lines] == [
        one.reason if isinstance(one, Failure) else None for one in found
    ]


def test_floors_and_ratios() -> None:
    """A card of 100 bytes and 1000 operations a second."""
    table = Table(image_tokens=10)
    step = Result("steps", "4 images", seconds=0.5, bytes=20, flops=100, images=4)
    assert table.floor(step) == 0
    list(table.lines(Result("card", "read", 2.0, bytes=200)))
    list(table.lines(Result("card", "matrix product", 0.5, flops=500)))
    assert table.floor(step) == pytest.approx(0.2)
    assert table.floor(Result("kernels", "product", 1.0, bytes=20, flops=400)) == pytest.approx(0.4)
    assert table.images_a_second(step) == pytest.approx(0.8)
    assert "2.50×" in list(table.lines(step))[-1]
    engine = Result("engine", "1 images together", 2.0, images=1, whole=True)
    other = Result("baselines", "a loop, 1 images", 9.0, images=1, whole=True)
    assert list(ratios([engine, other, Failure("x", "y")])) == ["  a loop, 1 images ÷ engine: 4.50×"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dry", "--images", "0"], "error: --images must be at least 1, not 0\n"),
        (["--dry", "--geometry", "8b"], "error: no geometry '8b'; known: janus-pro-7b, janus-pro-1b, 12x768\n"),
        pytest.param(
            [],
            "error: no device 'cuda' here: give auto, or one of cpu, cuda and mps\n",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_bad_settings_are_told_in_a_line(
    arguments: list[str], said: str, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    ended = command(main, "cuda", "--out", tmp_path / "found.jsonl", *arguments)
    assert ended.code == 2
    assert ended.err.endswith(said)
    assert not (tmp_path / "found.jsonl").exists()
