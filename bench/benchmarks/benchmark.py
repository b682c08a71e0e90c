"""Benchmarks: prompts, the folder of pictures that the official evaluator reads, and its results."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from bench.measurements.measurement import Number
from bench.pictures.picture import Picture
from pairs.files import write_atomically

PROMPTS_FOLDER = "prompts"  # copies of the prompts files, in the folder of a run
M = TypeVar("M", bound=BaseModel)


class BenchmarkError(ValueError):
    """Prompts or results cannot be used; the message names the file, and the line or case."""


class Benchmark(ABC):
    """Prompts and pictures of a benchmark.

    Args:
        files: prompts, as the benchmark's authors publish them.
        seed: of the first picture.

    Raises:
        BenchmarkError: a file is missing, or not one of this benchmark's.
    """

    name: ClassVar[str]

    def __init__(self, files: Sequence[Path], *, seed: int = 0) -> None:
        self.prompt_files = tuple(files)
        self.seed = seed
        digest = sha256()
        for file in self.prompt_files:
            try:
                digest.update(file.read_bytes())
            except OSError as error:
                raise BenchmarkError(f"{file}: {error.strerror}") from None
        self._digest = digest.hexdigest()[:16]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides which pictures are drawn, as JSON."""
        return {
            "name": self.name,
            "prompts": [file.name for file in self.prompt_files],
            "digest": self._digest,
            "pictures": len(self.pictures),
            "seed": self.seed,
        }

    @property
    @abstractmethod
    def pictures(self) -> Sequence[Picture]:
        """All pictures, in the order they are drawn."""

    def other_files(self, images: Path) -> Mapping[str, str]:
        """Texts of the files that the evaluator reads beside the pictures, by name relative to `images`."""
        return {}

    def reads(self, name: str) -> bool:
        """Whether the evaluator would take a file of this name, relative to the folder of pictures, for a picture."""
        return name.endswith(".png")

    def read_results(self, files: Sequence[Path]) -> list[Number]:
        """The benchmark's numbers from its official result files.

        Raises:
            BenchmarkError: a file is damaged, incomplete or of another benchmark.
        """
        raise BenchmarkError(f"{self.name} has no official result files")

    def write(self, folder: Path) -> None:
        """Write the prompts and the files beside the pictures into the folder of a run."""
        (folder / PROMPTS_FOLDER).mkdir(exist_ok=True)
        for file in self.prompt_files:
            content, copy = file.read_bytes(), folder / PROMPTS_FOLDER / file.name
            if not copy.exists() or copy.read_bytes() != content:
                write_atomically(copy, lambda partial, content=content: partial.write_bytes(content))  # type: ignore[misc]
        for name, text in self.other_files(folder / "images").items():
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                write_atomically(path, lambda partial, text=text: partial.write_text(text, encoding="utf-8"))  # type: ignore[misc]


def read_text(file: Path) -> str:
    """Text of a file.

    Raises:
        BenchmarkError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BenchmarkError(f"{file} is not UTF-8 text") from None


def read_rows(file: Path, kind: type[M]) -> list[M]:
    """Rows of a file of JSON lines, or of a JSON list.

    Raises:
        BenchmarkError: a row is not what `kind` asks for; the message names it and the field.
    """
    text = read_text(file)
    try:
        whole = text.lstrip().startswith("[")
        rows = json.loads(text) if whole else [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise BenchmarkError(f"{file} is not JSON ({error})") from None
    if not rows:
        raise BenchmarkError(f"{file} is empty")
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(kind.model_validate(row))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "value"
            raise BenchmarkError(f"{file}, row {number}: {place}: {first['msg']}") from None
    return found


def check_complete(file: Path | str, found: Sequence[object], wanted: Sequence[object], what: str) -> None:
    """Check that results have one entry for everything that was drawn.

    Raises:
        BenchmarkError: some are missing, there are others, or one occurs twice; the message names the first.
    """
    counts, known = Counter(found), set(wanted)
    for problem, names in (
        ("lacks", [one for one in wanted if one not in counts]),
        ("has unknown", [one for one in counts if one not in known]),
        ("has twice:", [one for one, count in counts.items() if count > 1]),
    ):
        if names:
            raise BenchmarkError(
                f"{file} {problem} {what} {names[0]!r}" + f" and {len(names) - 1} more" * (len(names) > 1)
            )
