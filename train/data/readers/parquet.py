"""Parquet shards with any column names, read through `datasets`, which maps them into memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from train.data.row import PictureFile, Row, decode
from train.errors import DataError

_TEXT_WORDS = ("prompt", "caption", "text", "description")
_PICTURE_WORDS = ("image", "img", "picture", "photo")


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read: one or two prompts, and a picture of each or none."""

    prompts: tuple[str, ...]
    pictures: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.prompts) not in (1, 2) or len(self.pictures) not in (0, len(self.prompts)):
            raise DataError(
                "there must be 1 or 2 prompt columns, and as many image columns or none, "
                f"not {len(self.prompts)} and {len(self.pictures)}"
            )

    def __str__(self) -> str:
        pictures = self.pictures or ("none",) * len(self.prompts)
        return ", ".join(f"prompt {a!r} with picture {b!r}" for a, b in zip(self.prompts, pictures, strict=True))


@dataclass(frozen=True)
class _Cell:
    """A picture in a row of a data set: the bytes of a file, its path, or both in a struct (`datasets.Image`)."""

    data: datasets.Dataset
    row: int
    column: str
    folder: Path

    def open(self) -> Image.Image:
        value = self.data[self.row][self.column]
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return decode(value)
        if isinstance(value, str):
            return PictureFile(self.folder / value).open()
        raise OSError("it has neither bytes nor a path")


def read_parquet(files: Sequence[Path], *, columns: Columns | None = None) -> tuple[list[Row], Columns]:
    """Read the shards of one data set; returns its rows and the columns that they were read from.

    Args:
        files: all with the same columns, in order; paths of pictures are relative to the first one's folder.
        columns: to read; None recognises them by name and type.

    Raises:
        DataError: a file is damaged, or the columns cannot be told.
    """
    try:
        data = datasets.Dataset.from_parquet([str(file) for file in files])
    except Exception as error:  # `datasets` wraps whatever its readers raise
        raise DataError(f"{files[0]}: cannot be read as Parquet: {error.__cause__ or error}") from None
    chosen = columns or sniff(data.features)
    for name in (*chosen.prompts, *chosen.pictures):
        if name not in data.features:
            raise DataError(f"{files[0]}: no column {name!r}; there are {_listed(data.features)}")
    for name in chosen.pictures:
        if isinstance(data.features[name], datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
    texts = data.select_columns(list(dict.fromkeys(chosen.prompts)))
    rows = [
        Row(
            f"{files[0].parent}, row {number}",
            tuple(text[name] for name in chosen.prompts),
            tuple(_Cell(data, number, name, files[0].parent) for name in chosen.pictures),
        )
        for number, text in enumerate(texts)
    ]
    return rows, chosen


def sniff(features: Mapping[str, Any]) -> Columns:
    """Find the columns of prompts and pictures by their names and types.

    Raises:
        DataError: there are not one or two columns of prompts, or not as many of pictures or none.
    """
    texts = [name for name, kind in features.items() if _is_text(kind)]
    named = [name for name in texts if _has(name, _TEXT_WORDS)]
    pictures = [name for name, kind in features.items() if _holds_bytes(kind)]
    pictures = pictures or [name for name in texts if _has(name, _PICTURE_WORDS) and name not in named]
    prompts = named or [name for name in texts if name not in pictures]
    try:
        return Columns(tuple(prompts), tuple(pictures))
    except DataError as error:
        raise DataError(
            f"cannot tell which columns hold prompts and pictures ({error}); found {_listed(features)}. "
            "Name them with --prompt-columns and --image-columns"
        ) from None


def _is_text(kind: Any) -> bool:
    return isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string")


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, datasets.Image):
        return True
    if isinstance(kind, Mapping):
        return "bytes" in kind
    return isinstance(kind, datasets.Value) and kind.dtype in ("binary", "large_binary")


def _has(name: str, words: Iterable[str]) -> bool:
    return any(word in name.lower() for word in words)


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{name!r} ({kind.dtype if hasattr(kind, 'dtype') else kind})" for name, kind in features.items())
