"""Sizes that clients ask for: the drawn square, enlarged or reduced, and padded or cropped to other shapes."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from serve.http.errors import InvalidRequest

MIN_SIDE, MAX_SIDE = 64, 2048  # pixels
Fit = Literal["pad", "crop", "refuse"]


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        """WIDTHxHEIGHT, as OpenAI writes it."""
        return f"{self.width}x{self.height}"

    @property
    def is_square(self) -> bool:
        return self.width == self.height


def parse_size(text: str | None, *, own: int, fit: Fit, strict: bool) -> Size:
    """Read the field `size`; None, an empty text and "auto" mean the model's own size.

    Args:
        text: the field.
        own: side of the model's pictures in pixels.
        fit: whether shapes other than squares are refused.
        strict: whether all sizes but the model's own are refused.

    Raises:
        InvalidRequest: it is no size, or not one that the server answers in.
    """
    if text in (None, "", "auto", f"{own}x{own}"):
        return Size(own, own)
    if strict:
        raise InvalidRequest(f"size must be auto or {own}x{own}, not {text!r}", param="size")
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    size = Size(int(found[1]), int(found[2])) if found else None
    if size is None or not all(MIN_SIDE <= side <= MAX_SIDE for side in (size.width, size.height)):
        raise InvalidRequest(
            f"size must be auto or WIDTHxHEIGHT with {MIN_SIDE} to {MAX_SIDE} pixels a side, not {text!r}", param="size"
        )
    if fit == "refuse" and not size.is_square:
        raise InvalidRequest(f"size must be a square such as {own}x{own}, not {text!r}", param="size")
    return size


def square_side(size: Size, fit: Fit) -> int:
    """Side in pixels that a square is brought to before it is padded or cropped to a size."""
    return (max if fit == "crop" else min)(size.width, size.height)


def resize(image: Image.Image, size: Size, fit: Fit) -> Image.Image:
    """Bring a square picture to a size, by Lanczos's filter.

    Padding keeps the whole picture and fills the rest with the mean colour of its border; cropping fills the size
    and loses two edges.
    """
    if (size.width, size.height) == image.size:
        return image
    side = square_side(size, fit)
    scaled = image.resize((side, side), Image.Resampling.LANCZOS)
    if size.is_square:
        return scaled
    left, top = (size.width - side) // 2, (size.height - side) // 2
    whole = Image.new("RGB", (size.width, size.height), _border_colour(image))
    whole.paste(scaled, (left, top))
    return whole


def _border_colour(image: Image.Image) -> tuple[int, int, int]:
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    red, green, blue = np.rint(border.mean(axis=0)).astype(int).tolist()
    return red, green, blue
