"""Per-user data files, and atomic writes."""

import os
from collections.abc import Callable
from pathlib import Path


def user_file(name: str) -> Path:
    """Path of a per-user data file: `focusdiff/<name>` under $XDG_DATA_HOME (default ~/.local/share)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "focusdiff" / name


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, never a part.

    `write` fills a temporary file beside `path`, which is then synced and renamed to `path`.

    Raises:
        OSError: the file cannot be written; the error names `path` or the temporary file.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk: found when writing, names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
