"""Pairs from files: what kind of file it is, and the validated rows as a source of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from model.janus import Janus
from train.data.readers.json_list import read_json_list
from train.data.readers.prompt_file import read_prompt_file
from train.data.row import Row
from train.data.validation import Report, validate
from train.errors import DataError


@dataclass(frozen=True)
class ListedPairs:
    """Source of pairs (`train.data.pairs.PairSource`) from valid rows."""

    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def has_pictures(self) -> bool:
        return bool(self.rows[0].pictures)

    def prompts(self, index: int) -> tuple[str, ...]:
        return tuple(str(prompt).strip() for prompt in self.rows[index].prompts)

    def pictures(self, index: int) -> tuple[Image.Image, ...]:
        """Decode the pictures of a row.

        Raises:
            DataError: one can no longer be read.
        """
        try:
            return tuple(picture.open() for picture in self.rows[index].pictures if picture is not None)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{self.rows[index].place}: a picture can no longer be read: {error}") from None

    @property
    def fingerprint(self) -> str:
        """Digest of all prompts in order, which tells data sets apart."""
        digest = sha256()
        for index in range(len(self)):
            digest.update("\0".join(self.prompts(index)).encode() + b"\n")
        return digest.hexdigest()[:16]


def open_pairs(
    path: Path,
    janus: Janus,
    *,
    prompt_columns: Sequence[str] = (),
    image_columns: Sequence[str] = (),
) -> tuple[ListedPairs, Report]:
    """Read and validate pairs (`read_rows`).

    Args:
        path: file or folder.
        janus: the model that is to be trained.
        prompt_columns, image_columns: of Parquet files; recognised if empty.

    Returns:
        The valid pairs, and the report of the validation.

    Raises:
        DataError: there is no such file, it is of no known kind, or no row is valid.
    """
    rows, source = read_rows(path, prompt_columns=prompt_columns, image_columns=image_columns)
    valid, report = validate(rows, janus, source=source)
    if not valid:
        raise DataError(f"no row can be trained on: {report}")
    return ListedPairs(valid), report


def read_rows(
    path: Path, *, prompt_columns: Sequence[str] = (), image_columns: Sequence[str] = ()
) -> tuple[list[Row], str]:
    """Read a .json list, a .txt file of prompts, a .parquet file or a folder of them; nothing is validated.

    Returns:
        The rows, and what they were read from: the path, and the columns of Parquet files.

    Raises:
        DataError: there is no such file, it is of no known kind, or it cannot be read.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    source = str(path)
    if not files:
        raise DataError(f"{path} has no .parquet files")
    if (prompt_columns or image_columns) and files[0].suffix != ".parquet":
        raise DataError(f"--prompt-columns and --image-columns are for Parquet files; {path} is none")
    if files[0].suffix == ".parquet":
        from train.data.readers.parquet import Columns, read_parquet  # imports `datasets`, which takes seconds

        given = Columns(tuple(prompt_columns), tuple(image_columns)) if prompt_columns or image_columns else None
        rows, columns = read_parquet(files, columns=given)
        source = f"{path}: {columns}"
    elif path.suffix == ".json":
        rows = read_json_list(path)
    elif path.suffix == ".txt":
        rows = read_prompt_file(path)
    else:
        raise DataError(f"{path}: must be a .json or .txt file, a .parquet file or a folder of them")
    return rows, source
