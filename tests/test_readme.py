"""README's curl command and its tree of files."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.thread_backend import ThreadBackend
from tests.tools import needs_curl

README = Path(__file__).parent.parent / "README.md"


@needs_curl
def test_the_curl_command_makes_a_picture(
    small_backend: ThreadBackend, serve_on_socket: Callable[..., Any], tmp_path: Path
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


def test_the_tree_names_every_module_and_no_other() -> None:
    """A line has names and a description; a folder's description may end in a list of its modules."""
    root = README.parent
    packages = ("serve", "model", "pairs", "train", "ui", "bench")
    tree = README.read_text().split("## What is where")[1].split("```")[1]
    named: set[Path] = set()
    folders: list[tuple[int, Path]] = [(-1, root)]
    for line in tree.strip().splitlines():
        indent = len(line) - len(line.lstrip())
        while folders[-1][0] >= indent:
            folders.pop()
        *names, about = re.split(r" {2,}", line.strip())
        for name in names:
            path = folders[-1][1] / name.rstrip("/")
            named.add(path)
            if name.endswith("/"):
                folders.append((indent, path))
                named |= {path / one for one in re.split(r", ", about.rpartition(": ")[2])} & modules(path)
    there = {path for package in packages for path in ({root / package} | modules(root / package, "**/*"))}
    assert {path for path in named if path.relative_to(root).parts[0] in packages} == there


def modules(folder: Path, pattern: str = "*") -> set[Path]:
    """Folders and source files in `folder`, all but .css without suffix; data files are left out."""
    found = {path for path in folder.glob(pattern) if not any(part.startswith("__") for part in path.parts)}
    return {
        path.with_suffix("") if path.suffix in (".py", ".c", ".h", ".toml") else path
        for path in found
        if path.is_dir() or path.suffix in (".py", ".c", ".h", ".toml", ".css")
    }
