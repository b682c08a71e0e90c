"""Rows of a data set as they were read, before validation."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from pairs.picture_file import upright


class Picture(Protocol):
    """A picture that is read when it is needed."""

    def open(self) -> Image.Image:
        """Decode the whole picture, upright.

        Raises:
            OSError: it is missing or damaged.
        """


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file of its own."""

    path: Path

    def open(self) -> Image.Image:
        with Image.open(self.path) as picture:
            return upright(picture)


def decode(content: bytes) -> Image.Image:
    """Decode the bytes of a picture file.

    Raises:
        OSError: they are not a picture, or a damaged one.
    """
    with Image.open(io.BytesIO(content)) as picture:
        return upright(picture)


@dataclass(frozen=True)
class Row:
    """One row of a data set.

    place: file and row, for messages.
    prompts: one or two; of any type, since nothing was checked.
    pictures: one for each prompt, or none at all; None where the row has no value.
    """

    place: str
    prompts: tuple[object, ...]
    pictures: tuple[Picture | None, ...] = ()
