"""The folder of a run of a benchmark.

manifest.json        what decided the pictures, and each command that drew some
prompts/             copies of the prompts files
images/              pictures and other files, as the official evaluator reads them
judgements/          scores of single pictures, one file for each judge
scores/              a judge's scores in the benchmark's official format
numbers/             results, one file for each scorer (`bench.measurements`)
report.html          one file that opens offline
.run.lock            held by the command that uses the folder (`bench.pictures.run_lock`)
"""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.pictures.errors import RunError
from bench.pictures.picture import Picture
from bench.pictures.picture_file import PictureFile
from bench.pictures.run_lock import MANIFEST, RunLock
from pairs.files import write_atomically

DRAWN = ("codes", "drawn seeds")  # metadata that the drawing decides


class RunFolder:
    """Folder of a run.

    Args:
        lock: of the folder, which is new or of a run with the same settings.
        settings: everything that decides the pictures, as JSON.

    Raises:
        RunError: it holds a run with other settings, or a damaged manifest.
    """

    def __init__(self, lock: RunLock, settings: Mapping[str, Any]) -> None:
        self.folder = lock.folder
        self.images = self.folder / "images"
        self._manifest = self.folder / MANIFEST
        settings = json.loads(json.dumps(settings))
        if self._manifest.exists():
            self.manifest = read_manifest(self.folder)
            _check_same(self._manifest, self.manifest["settings"], settings)
        else:
            self.manifest = {"settings": settings, "history": []}
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

        Files are checked by their checksums and settings; pixels are not decoded.

        Args:
            pictures: all pictures of the run.
            reads: whether the evaluator would take a file for a picture, by its name relative to the folder.

        Raises:
            RunError: a file is damaged, was made with other settings, or does not belong to the run.
        """
        wanted = {picture.file: picture for picture in pictures}
        found = set()
        files = sorted(path for path in self.images.rglob("*") if not path.is_dir())
        for path in tqdm(files, desc="checked", leave=False, disable=None):
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
        file = PictureFile(path)
        file.check_png()
        if {name: value for name, value in file.metadata.items() if name not in DRAWN} != self.metadata(picture):
            raise RunError(f"{path} was made with other settings than this run's; move it away")

    def _write(self) -> None:
        text = json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self._manifest, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a run.

    Raises:
        RunError: the folder has none, or it is damaged.
    """
    path = folder / MANIFEST
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


def _check_same(path: Path, ours: Mapping[str, Any], given: Mapping[str, Any], at: str = "") -> None:
    """Raise RunError if two settings differ; the message names the first field that does."""
    for name in [*ours, *(name for name in given if name not in ours)]:
        before, now = ours.get(name), given.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            _check_same(path, before, now, f"{at}{name}.")
        elif before != now:
            raise RunError(f"{path}: {at}{name} is {before!r}, but now {now!r}; choose another --out")
