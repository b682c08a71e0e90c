"""A picture's file: whether it is whole, its digest, its settings and its pixels."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from bench.pictures.errors import RunError
from pairs.picture_file import read_metadata, upright


class PictureFile:
    """Content of a picture's file, read once.

    Raises:
        RunError: it is missing or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._content = path.read_bytes()
        except FileNotFoundError:
            raise RunError(f"{path} is missing") from None
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}") from None

    @property
    def sha256(self) -> str:
        """Digest of the file, in hex."""
        return sha256(self._content).hexdigest()

    @property
    def metadata(self) -> dict[str, Any]:
        """Settings of the picture; {} if the file has none.

        Raises:
            RunError: it is no picture.
        """
        with self._reading():
            return read_metadata(io.BytesIO(self._content)) or {}

    def check_png(self) -> None:
        """Check that the file is a PNG with intact checksums, to its end; pixels are not decoded.

        Raises:
            RunError: it is cut short, damaged or no PNG.
        """
        with self._reading(), Image.open(io.BytesIO(self._content), formats=("PNG",)) as image:
            image.verify()

    def picture(self) -> Image.Image:
        """Decode the picture, to RGB, upright.

        Raises:
            RunError: it is cut short, damaged or no picture.
        """
        with self._reading():
            with Image.open(io.BytesIO(self._content)) as image:
                image.verify()  # decoding ignores the checksums of a PNG
            with Image.open(io.BytesIO(self._content)) as image:
                return upright(image)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise RunError(
                f"{self._path} is damaged, or no picture ({_fault(error)}); move it away to draw it again"
            ) from None


def _fault(error: Exception) -> str:
    """PIL's message; that of an unknown format names a buffer, which says nothing to users."""
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
