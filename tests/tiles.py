"""Pictures of a sheet of labelled pictures."""

from pathlib import Path

from PIL import Image


def tiles(sheet: Path, count: int) -> list[Image.Image]:
    """The first pictures of a sheet of 64 × 64 pixels each, ten in a row."""
    corners = [(64 * (number % 10), 64 * (number // 10)) for number in range(count)]
    with Image.open(sheet) as opened:
        return [opened.crop((x, y, x + 64, y + 64)) for x, y in corners]
