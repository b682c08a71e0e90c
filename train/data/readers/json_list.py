"""JSON lists, the format of the released trainer: [{"prompt1", "prompt2", "image1", "image2"}, …]."""

import json
from pathlib import Path

from train.data.row import PictureFile, Row
from train.errors import DataError

_PAIRED = (("prompt1", "prompt2"), ("image1", "image2"))
_SINGLE = (("prompt",), ("image",))


def read_json_list(file: Path) -> list[Row]:
    """Read a list of pairs, or of single prompts with the keys "prompt" and "image".

    Pictures are paths, relative to the file's folder, and may be left out in all rows.

    Raises:
        DataError: the file is not a list of such objects.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, list):
        raise DataError(f"{file} must be a JSON list of objects, not {type(content).__name__}")
    return [_row(f"{file}, row {number}", value, file.parent) for number, value in enumerate(content)]


def _row(place: str, value: object, folder: Path) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{place} must be an object, not {type(value).__name__}")
    prompt_keys, picture_keys = _PAIRED if "prompt1" in value or "prompt2" in value else _SINGLE
    prompts = tuple(value.get(key) for key in prompt_keys)
    if not any(key in value for key in picture_keys):
        return Row(place, prompts)
    paths = [value.get(key) for key in picture_keys]
    return Row(place, prompts, tuple(PictureFile(folder / path) if isinstance(path, str) else None for path in paths))
