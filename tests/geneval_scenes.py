"""Prompts, objects and folders in GenEval's layout, for tests of its scorer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from bench.detection.metadata import Metadata, parse_metadata
from bench.detection.objects import Box, DetectedObject
from bench.detection.scorer import Scorer

RGB = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
SHADES = {"dog": 0, "cat": 40}  # added to a square's channels, to tell dogs from cats

Square = tuple[str, str, int, int]  # name, colour, left, top; 16 × 16 pixels


def prompt(include: Sequence[dict[str, Any]], tag: str = "two_object", **others: Any) -> Metadata:
    """A prompt's metadata."""
    return parse_metadata(json.dumps({"tag": tag, "include": include, **others, "prompt": "a photo"}), "prompt")


def placed(name: str, x: float, y: float = 0, *, score: float = 0.95, side: float = 10) -> DetectedObject:
    """A detected square around a centre."""
    return DetectedObject(name, Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2), float(np.float32(score)))


def draw(squares: Sequence[Square]) -> Image.Image:
    """Squares on white, in 64 × 64 pixels; `find` finds them."""
    picture = Image.new("RGB", (64, 64), "white")
    for name, colour, left, top in squares:
        fill = tuple(min(channel + SHADES[name], 255) for channel in RGB[colour])
        ImageDraw.Draw(picture).rectangle((left, top, left + 15, top + 15), fill=fill)
    return picture


def find(pictures: Sequence[Image.Image]) -> list[list[DetectedObject]]:
    """Squares that `draw` drew, one object for each name and colour, with its mask."""
    found: list[list[DetectedObject]] = []
    for picture in pictures:
        pixels = np.array(picture).astype(int)
        objects: list[DetectedObject] = []
        for name, shade in SHADES.items():
            for rgb in RGB.values():
                mask = (pixels == np.minimum(np.array(rgb) + shade, 255)).all(axis=2)
                if mask.any():
                    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
                    box = Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
                    objects.append(DetectedObject(name, Box(*map(float, box)), 0.95, mask))
        found.append(objects)
    return found


def see(picture: Image.Image, name: str, objects: Sequence[DetectedObject]) -> list[str]:
    """Colours of such squares, from a pixel in the middle."""
    seen = []
    for one in objects:
        left, top, right, bottom = one.box
        pixel = picture.getpixel((int(left + right) // 2, int(top + bottom) // 2))
        seen.append(next(c for c, rgb in RGB.items() if tuple(min(v + SHADES[name], 255) for v in rgb) == pixel))
    return seen


SCORER = Scorer(find, see, {"detector": "squares"}, batch=4)


def save_folder(folder: Path, prompts: Sequence[tuple[Metadata, Sequence[Sequence[Square]]]]) -> None:
    """Write prompts and the pictures of each."""
    for number, (metadata, pictures) in enumerate(prompts):
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(metadata.as_json())
        for sample, squares in enumerate(pictures):
            draw(squares).save(samples / f"{sample:04d}.png")
