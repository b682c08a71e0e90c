"""What README tells people to type."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from serve.local_backend import LocalBackend
from tests.tools import needs_curl

README = Path(__file__).parent.parent / "README.md"


@needs_curl
def test_its_curl_makes_a_picture(
    small_backend: LocalBackend, serve_on_socket: Callable[..., Any], tmp_path: Path
) -> None:
    (command,) = (
        block for block in re.findall(r"```sh\n(.*?)```", README.read_text(), re.S) if block.startswith("curl")
    )
    with serve_on_socket(small_backend) as served:
        command = command.replace("http://127.0.0.1:8000", served.url)
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, check=True, timeout=60)
    with Image.open(tmp_path / "circles.png") as picture:
        assert picture.size == (64, 64)
        assert '"seed": 1' in picture.text["focusdiff"]  # type: ignore[attr-defined]


def test_its_tree_names_every_module_and_no_other() -> None:
    tree = README.read_text().split("## What is where")[1].split("```")[1]
    named: set[Path] = set()
    folder = README.parent
    for line in tree.strip().splitlines():
        if not line.startswith(" "):
            folder = README.parent / line.split("/")[0]
            continue
        for name in re.split(r" {2,}", line.strip())[:-1]:
            named.add(folder / name.rstrip("/"))
    packages = ("serve", "model", "pairs", "train", "ui", "bench")
    there = {
        path if path.is_dir() else path.with_suffix(path.suffix if path.suffix == ".css" else "")
        for package in packages
        for path in (README.parent / package).iterdir()
        if not path.name.startswith("__")
    }
    assert named == there
