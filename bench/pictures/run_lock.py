"""The lock of a run's folder: one command at a time uses it."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.pictures.errors import RunError

MANIFEST = "manifest.json"
_LOCK = ".run.lock"


class RunLock:
    """Holds a run's folder, made if missing, until the `with` block is left or the process ends, however it ends.

    Args:
        folder: new, empty, or of a run.

    Raises:
        RunError: another command holds it, it cannot be locked, or it is a folder of something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ours = (folder / MANIFEST).exists() or (folder / _LOCK).exists()
        if not ours and folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"{folder} is not empty and is not a run: it has no {MANIFEST}; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        # the file stays: were it removed, two commands could hold locks on two files of this name
        self._file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            held = isinstance(error, BlockingIOError)
            said = "is in use by another command" if held else f"cannot be locked ({error.strerror})"
            raise RunError(f"{folder} {said}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
