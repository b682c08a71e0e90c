"""Pictures that were drawn elsewhere, in a benchmark's official layout."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.pictures.errors import GenerationError, RunError
from bench.pictures.generator import Drawings, Drawn
from bench.pictures.picture import Part
from bench.pictures.picture_file import PictureFile
from train.provenance import provenance


class FolderGenerator:
    """Takes pictures from a folder.

    Names that are numbers may have any number of digits: GenEval's own scripts write 00000.png, its README asks for
    0000.png, and its evaluator reads both.

    Args:
        folder: of the pictures.
        name: of the model that drew them.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._files: dict[Path, list[Path]] = {}
        for path in sorted(folder.rglob("*.png")):
            self._files.setdefault(_place(path.relative_to(folder)), []).append(path)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"generator": "folder", "model": self._name}

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {**provenance(device="elsewhere", dtype="unknown"), "folder": str(self._folder)}

    def draw(self, parts: Sequence[Part]) -> Drawings:
        """Read each part (`bench.pictures.generator.Generator`)."""
        for part in parts:
            try:
                image = PictureFile(self._find(part.picture.file)).picture()
            except RunError as error:
                raise GenerationError(str(error)) from None
            cells = len(part.picture.seeds)
            if cells > 1:
                side = round(cells**0.5)
                width, height = image.width // side, image.height // side
                left, top = part.number % side * width, part.number // side * height
                image = image.crop((left, top, left + width, top + height))
            yield Drawn(part, image)

    def _find(self, name: str) -> Path:
        found = self._files.get(_place(Path(name)), [self._folder / name])
        if len(found) > 1:
            raise GenerationError(f"{found[0]} and {found[1].name} are the same picture; move one away")
        return found[0]


def _place(file: Path) -> Path:
    """A file's path without the leading zeros of a number."""
    return file.with_stem(str(int(file.stem))) if file.stem.isdecimal() else file
