"""Pictures as files: PNG with the settings that made them, grids, and reading the settings back."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pairs.files import write_atomically

METADATA_KEY = "focusdiff"


def png_bytes(image: Image.Image, metadata: Mapping[str, Any]) -> bytes:
    """A PNG whose text chunk `focusdiff` holds the metadata as JSON."""
    text = PngInfo()
    text.add_itxt(METADATA_KEY, json.dumps(metadata, ensure_ascii=False))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def write_png(path: Path, image: Image.Image, metadata: Mapping[str, Any]) -> None:
    """Write a PNG with its metadata, whole or not at all."""
    content = png_bytes(image, metadata)
    write_atomically(path, lambda partial: partial.write_bytes(content))


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The settings in a PNG written by `write_png`; None where there are none."""
    with Image.open(path) as image:
        text = getattr(image, "text", {}).get(METADATA_KEY)
    if text is None:
        return None
    content: dict[str, Any] = json.loads(text)
    return content


def grid(images: Sequence[Image.Image], columns: int, *, gap: int = 4, height: int = 192) -> Image.Image:
    """Pictures side by side on white, small ones enlarged to about `height` pixels."""
    side = images[0].height
    scale = max(1, round(height / side))
    cell = side * scale
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (cell + gap) - gap, rows * (cell + gap) - gap), "white")
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        enlarged = image.resize((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(enlarged, (column * (cell + gap), row * (cell + gap)))
    return sheet
