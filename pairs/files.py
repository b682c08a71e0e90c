"""The user's own files, and writing any so that a kill at any moment leaves the old one or the new, never a part."""

import os
from collections.abc import Callable
from pathlib import Path


def user_file(name: str) -> Path:
    """Where a file of the user's own is kept: under XDG_DATA_HOME, which is ~/.local/share unless set."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "focusdiff" / name


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there in one step.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk is found out after opening
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
