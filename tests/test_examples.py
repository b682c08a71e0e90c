"""Each script in examples/ runs unchanged and writes the expected pictures."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.thread_backend import ThreadBackend

ROOT = Path(__file__).parent.parent


def run(name: str, folder: Path, *arguments: str, **environment: str) -> str:
    """Run an example in `folder`, outside the repository like a user's own script, and return its output."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            found[path.name] = picture.size
    return found


@pytest.fixture
def url(small_backend: ThreadBackend, serve_on_socket: Callable[..., Any]) -> Iterator[str]:
    with serve_on_socket(small_backend, judge="exact") as served:
        yield served.url


def test_openai_client(url: str, tmp_path: Path) -> None:
    printed = run("openai_client.py", tmp_path, OPENAI_BASE_URL=f"{url}/v1", OPENAI_API_KEY="none")
    assert printed.split() == ["star-0.png", "star-1.png", "star-2.png", "star.png"]
    assert sizes(tmp_path) == dict.fromkeys(["circles-0.png", "circles-1.png", *sorted(printed.split())], (64, 64))


def test_compare_prompts(url: str, tmp_path: Path) -> None:
    first, second, *seeds, judged = run("compare_prompts.py", tmp_path, url).splitlines()
    assert first == "three red circles: only here 'three'"
    assert second == "four red circles: only here 'four'"
    assert [line.partition(":")[0] for line in seeds] == ["seed 1", "seed 2"]
    assert judged.startswith("judge exact: s_a 0.")
    assert set(sizes(tmp_path)) == {"left-1.png", "left-2.png", "right-1.png", "right-2.png"}


def test_pictures(tmp_path: Path) -> None:
    run("pictures.py", tmp_path)
    assert sizes(tmp_path) == {f"circles-{number}.png": (64, 64) for number in range(4)}


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text()
    assert all(f'run("{path.name}"' in source for path in (ROOT / "examples").glob("*.py"))
