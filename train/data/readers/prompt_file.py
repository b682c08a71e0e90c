"""Text files with one prompt in each line: unpaired prompts, without pictures."""

from pathlib import Path

from train.data.row import Row
from train.errors import DataError


def read_prompt_file(file: Path) -> list[Row]:
    """Read the lines that are not empty.

    Raises:
        DataError: the file is not UTF-8 text.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    return [Row(f"{file}, line {number}", (line,)) for number, line in enumerate(lines, start=1) if line.strip()]
