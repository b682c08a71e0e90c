"""The wheel, installed outside the checkout where there is no compiler: it draws, serves, trains and benches."""

import json
import re
import signal
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from pairs.picture_file import read_metadata
from tests.tools import needs_compiler

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PACKAGES = ("serve", "model", "pairs", "ui", "train", "bench")
pytestmark = [pytest.mark.long, needs_compiler]


class Installed:
    """The wheel in an environment of its own.

    Attributes:
        bin: folder of its console scripts.
        folder: working directory of its commands.
        site: folder that its packages are in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        self._environment = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        venv.create(folder / "venv", with_pip=False)
        (site,) = (folder / "venv").glob("lib/python*/site-packages")
        self.site = site

    def __call__(self, command: str, *arguments: str) -> str:
        """Run a command of the environment to its end; returns what it prints."""
        done = subprocess.run(
            [self.bin / command, *arguments],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    @contextmanager
    def running(self, command: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """Run a command of the environment while the `with` block runs."""
        with subprocess.Popen(
            [self.bin / command, *arguments], cwd=self.folder, env=self._environment, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Our packages come from the wheel alone; third-party ones from the environment of the tests."""
    folder = tmp_path_factory.mktemp("release")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], check=True, timeout=200)
    (wheel,) = folder.glob("*.whl")
    installed = Installed(folder)
    target = [f"--python={installed.bin / 'python'}", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, *target, wheel], check=True, timeout=100)
    others = installed.folder / "third_party"
    others.mkdir()
    for one in Path(sysconfig.get_path("purelib")).iterdir():
        if not one.name.startswith(("focusdiff", "_focusdiff", "__editable__")) and one.suffix != ".pth":
            (others / one.name).symlink_to(one)
    (installed.site / "third_party.pth").write_text(f"{others}\n")
    return installed


def test_every_package_comes_from_the_wheel(installed: Installed) -> None:
    code = f"import json, {', '.join(PACKAGES)}; print(json.dumps([one.__file__ for one in ({', '.join(PACKAGES)})]))"
    files = json.loads(installed("python", "-c", code))
    assert len(files) == len(PACKAGES)
    assert all(Path(file).is_relative_to(installed.site) for file in files), files


def test_everything_that_git_has_in_the_packages_is_in_the_wheel(installed: Installed) -> None:
    """Recipes, the page's style, checkpoints, cases and C sources as well as modules."""
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    missing = [name for name in listed.stdout.split() if not (installed.site / name).is_file()]
    assert not missing


def test_it_has_the_version_of_pyproject_toml(installed: Installed) -> None:
    code = "import importlib.metadata; print(importlib.metadata.version('focusdiff'))"
    assert installed("python", "-c", code).strip() == VERSION


def test_it_draws_by_a_library_that_was_built_ahead(installed: Installed) -> None:
    code = "from model.cpu.library import native_library; print(native_library()._name)"
    assert Path(installed("python", "-c", code).strip()).parent == installed.site / "model" / "cpu" / "built"
    installed("focusdiff-generate", "three red circles", "--seed", "3", "--out", "pictures")
    (picture,) = (installed.folder / "pictures").glob("three-red-circles-3.png")
    metadata = read_metadata(picture)
    assert metadata is not None
    assert (metadata["prompt"], metadata["seed"]) == ("three red circles", 3)


def test_it_serves_a_picture_and_the_page(installed: Installed) -> None:
    """The API's description names the version."""
    arguments = ("--model", "tiny-base", "--judge", "exact", "--port", "0")
    with installed.running("focusdiff-serve", *arguments) as server:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        (picture,) = ask(f"{url}/v1/images/generations", {"prompt": "a blue star", "seed": 1})["data"]
        assert len(picture["b64_json"]) > 1000
        with urllib.request.urlopen(f"{url}/openapi.json", timeout=60) as description:
            assert json.load(description)["info"]["version"] == VERSION
        with urllib.request.urlopen(url, timeout=60) as page:
            assert b"FocusDiff" in page.read()
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def ask(url: str, body: Mapping[str, object]) -> dict[str, list[dict[str, str]]]:
    """Answer to a POST of JSON."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: dict[str, list[dict[str, str]]] = json.load(answer)
    return content


def test_it_trains_a_step_and_benches_what_comes_out(installed: Installed) -> None:
    """A benchmark's pictures are drawn by the new checkpoint and judged; the page is written from its template."""
    out = ("--steps", "1", "--out", "run")
    installed("focusdiff-train", "sft", "--model", "tiny-base", "--data", "world", "--recipe", "world", *out)
    case = {"category": "colour difference", "caption1": "a red heart", "caption2": "a blue heart"}
    (installed.folder / "cases.json").write_text(json.dumps([case]))
    bench = ("paircomp", "--model", "run/latest", "--prompts", "cases.json", "--out", "benchmark")
    assert ", judge exact" in installed("focusdiff-bench", *bench)
    assert (installed.folder / "benchmark" / "report.html").read_text().startswith("<!doctype html>")
