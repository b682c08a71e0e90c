"""The folder of a run of a benchmark.

manifest.json        what decided the pictures, and each command that drew some
prompts/             copies of the prompts files
images/              pictures and other files, as the official evaluator reads them
judgements/          scores of single pictures, one file for each judge
scores/              a judge's scores in the benchmark's official format
numbers/             results, one file for each scorer (`bench.measurements`)
report.html
"""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from bench.pictures.picture import Picture
from pairs.files import write_atomically
from pairs.picture_file import read_metadata

DRAWN = ("codes", "drawn seeds")  # metadata that the drawing decides


class RunError(ValueError):
    """A run's folder cannot be used; the message names the file and the difference."""


class RunFolder:
    """Folder of a run, made if missing.

    Args:
        folder: new, empty, or of a run with the same settings.
        settings: everything that decides the pictures, as JSON.

    Raises:
        RunError: it holds something else, or a run with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.images = folder / "images"
        self._manifest = folder / "manifest.json"
        settings = json.loads(json.dumps(settings))
        if self._manifest.exists():
            self.manifest = read_manifest(folder)
            _check_same(self._manifest, self.manifest["settings"], settings)
        elif folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"{folder} is not empty and is not a run: it has no manifest.json; choose another --out")
        else:
            self.manifest = {"settings": settings, "history": []}
            folder.mkdir(parents=True, exist_ok=True)
            self._write()
        self.images.mkdir(exist_ok=True)

    @property
    def settings(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = self.manifest["settings"]
        return settings

    def record(self, provenance: Mapping[str, Any]) -> None:
        """Add a command that draws pictures to the manifest, unless its latest entry is the same."""
        versions = {name: version(name) for name in ("transformers", "pillow")}
        entry = json.loads(json.dumps({**provenance, **versions}))
        if self.manifest["history"][-1:] != [entry]:
            self.manifest["history"].append(entry)
            self._write()

    def missing(self, pictures: Sequence[Picture], *, reads: Callable[[str], bool]) -> list[Picture]:
        """Pictures that have no file yet.

        Args:
            pictures: all pictures of the run.
            reads: whether the evaluator would take a file for a picture, by its name relative to the folder.

        Raises:
            RunError: a file is damaged, was made with other settings, or does not belong to the run.
        """
        wanted = {picture.file: picture for picture in pictures}
        found = set()
        for path in sorted(self.images.rglob("*")):
            if path.is_dir():
                continue
            name = path.relative_to(self.images).as_posix()
            if path.name.startswith(".") and path.name.endswith(".partial"):
                path.unlink()  # a kill left it
            elif name in wanted:
                self._check(path, wanted[name])
                found.add(name)
            elif reads(name):
                raise RunError(f"{path} is no file of this run; move it away")
        return [picture for picture in pictures if picture.file not in found]

    def metadata(self, picture: Picture) -> dict[str, Any]:
        """Settings that a picture's file carries."""
        return {"prompt": picture.prompt, "seeds": list(picture.seeds), **self.settings["generator"]}

    def _check(self, path: Path, picture: Picture) -> None:
        found = open_picture(path)[1]
        if {name: value for name, value in found.items() if name not in DRAWN} != self.metadata(picture):
            raise RunError(f"{path} was made with other settings than this run's; move it away")

    def _write(self) -> None:
        text = json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self._manifest, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a run.

    Raises:
        RunError: the folder has none, or it is damaged.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        benchmark = manifest["settings"]["benchmark"]
        benchmark["name"], benchmark["prompts"], benchmark["seed"], benchmark["digest"]
        manifest["settings"]["generator"]["generator"]
        manifest["history"][:0]
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{path} is no manifest of a run") from None
    return manifest


def open_picture(path: Path) -> tuple[Image.Image, dict[str, Any]]:
    """A whole picture, and the settings in its file ({} if there are none).

    Raises:
        RunError: the file is missing, damaged or no picture.
    """
    try:
        with Image.open(path) as image:
            image.verify()  # checksums, to the end of the file
        with Image.open(path) as image:
            picture = image.convert("RGB")
        return picture, read_metadata(path) or {}
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise RunError(f"{path} is damaged, or no picture ({error}); move it away to draw it again") from None


def _check_same(path: Path, ours: Mapping[str, Any], given: Mapping[str, Any], at: str = "") -> None:
    """Raise RunError if two settings differ; the message names the first field that does."""
    for name in [*ours, *(name for name in given if name not in ours)]:
        before, now = ours.get(name), given.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            _check_same(path, before, now, f"{at}{name}.")
        elif before != now:
            raise RunError(f"{path}: {at}{name} is {before!r}, but now {now!r}; choose another --out")
