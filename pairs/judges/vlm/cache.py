"""Answers of a vision-language model, cached on disk."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from PIL import Image

from pairs.judges.errors import JudgeError
from pairs.judges.vlm.vlm import Vlm


class CachedVlm:
    """Answers by model, question and picture; a model is asked once, whatever run asks. What failed is asked again.

    Args:
        vlm: asked for answers that are missing.
        file: SQLite file; made if missing. Several processes may share it.
        model: identifies the model.

    Raises:
        JudgeError: the file is no such cache, or cannot be written.
    """

    def __init__(self, vlm: Vlm, file: Path, *, model: str) -> None:
        self._vlm, self._file, self._model = vlm, file, model
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(self._open()) as database, database:
                database.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, yes REAL) WITHOUT ROWID")
                database.execute("SELECT key, yes FROM answers LIMIT 0")
        except sqlite3.Error as error:
            raise JudgeError(f"{file}: is no cache of answers, or cannot be written ({error})") from None

    def yes(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[float | None]:
        """Probabilities of yes (`pairs.judges.vlm.vlm.Vlm`)."""
        keys = [self._key(picture, question) for picture, question in zip(pictures, questions, strict=True)]
        with closing(self._open()) as database:
            known = {key: row[0] for key in keys if (row := _find(database, key))}
            missing = [place for place, key in enumerate(keys) if key not in known]
            asked = self._vlm.yes([pictures[i] for i in missing], [questions[i] for i in missing])
            new = {keys[i]: yes for i, yes in zip(missing, asked, strict=True) if yes is not None}
            with database:
                database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", new.items())
        return [(known | new).get(key) for key in keys]

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=60)  # in each call: judges run in threads

    def _key(self, picture: Image.Image, question: str) -> bytes:
        rgb = picture.convert("RGB")
        return sha256(
            "\0".join([self._model, question, f"{rgb.width} {rgb.height}", ""]).encode() + rgb.tobytes()
        ).digest()


def _find(database: sqlite3.Connection, key: bytes) -> tuple[float] | None:
    found: tuple[float] | None = database.execute("SELECT yes FROM answers WHERE key = ?", (key,)).fetchone()
    return found
