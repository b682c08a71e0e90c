"""Folders of pictures in GenEval's layout: `00000/metadata.jsonl`, `00000/samples/0000.png` and so on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from bench.detection.errors import GenEvalError
from bench.detection.metadata import Metadata, parse_metadata
from model.errors import first_line
from pairs.picture_file import upright


@dataclass(frozen=True)
class Sample:
    """A picture of a prompt; `place` is its path below the folder, such as 00012/samples/0003.png."""

    place: str
    file: Path
    metadata: Metadata

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the file's SHA-256. Raises GenEvalError if it cannot be read."""
        return sha256(_read(self.file)).hexdigest()[:16]

    def picture(self) -> Image.Image:
        """Decode the picture, to RGB, turned as its EXIF orientation says.

        Raises:
            GenEvalError: it is missing, damaged, cut off or no picture.
        """
        content = _read(self.file)
        try:
            with Image.open(BytesIO(content)) as picture:
                return upright(picture)
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError and others
            raise GenEvalError(f"{self.file}: {_fault(error)}") from None


def find_samples(folder: Path, *, per_prompt: int, prompts: Sequence[Metadata] | None = None) -> list[Sample]:
    """Find all pictures, in order, and check that none is missing or too many.

    Args:
        folder: in GenEval's layout.
        per_prompt: pictures of each prompt.
        prompts: that the folder must have, in order; None accepts any.

    Raises:
        GenEvalError: a folder or file is missing, too many or unreadable, or a prompt differs.
    """
    if not folder.is_dir():
        raise GenEvalError(f"{folder}: no such folder")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.isdecimal())
    expected = [f"{number:05d}" for number in range(len(names) if prompts is None else len(prompts))]
    _compare(folder, names, expected or ["00000"])
    samples: list[Sample] = []
    for number, name in enumerate(names):
        file = folder / name / "metadata.jsonl"
        metadata = parse_metadata(_read(file), str(file))
        if prompts is not None and metadata != prompts[number]:
            raise GenEvalError(f"{file}: is not line {number + 1} of the prompts, {prompts[number].prompt!r}")
        pictures = folder / name / "samples"
        found = sorted(path.name for path in pictures.glob("*.png") if re.fullmatch(r"\d+\.png", path.name))
        _compare(pictures, found, [f"{sample:04d}.png" for sample in range(per_prompt)])
        samples += [Sample(f"{name}/samples/{one}", pictures / one, metadata) for one in found]
    return samples


def _fault(error: Exception) -> str:
    """First line of PIL's message; one about an unknown format names a buffer, which says nothing to users."""
    return "is no picture" if isinstance(error, UnidentifiedImageError) else first_line(error)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise GenEvalError(f"{file}: {error.strerror}") from None


def _compare(folder: Path, found: Sequence[str], expected: Sequence[str]) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise GenEvalError(f"{folder / missing[0]}: missing ({len(missing)} of {len(expected)} are)")
    if extra := sorted(set(found) - set(expected)):
        raise GenEvalError(f"{folder / extra[0]}: is one too many ({len(expected)} expected)")
