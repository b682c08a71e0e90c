"""GenEval (Ghosh et al. 2023): objects, counts, colours and positions, four pictures of each of 553 prompts.

Prompts: `evaluation_metadata.jsonl`. Pictures: `00000/samples/0000.png` …, beside `00000/metadata.jsonl`.
Results: `results.jsonl` of the official evaluator, or of `bench.detection`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from bench.benchmarks.benchmark import Benchmark, BenchmarkError, check_complete, read_rows
from bench.pictures.picture import Picture
from bench.results import Number

IMAGES = 4  # of each prompt


class _Prompt(BaseModel):
    """A line of the prompts file; other fields are the scorer's."""

    model_config = ConfigDict(extra="allow")

    tag: str
    prompt: str = Field(min_length=1)
    include: list[dict[str, Any]] = Field(min_length=1)


class _Result(BaseModel):
    filename: str
    tag: str
    correct: StrictBool


class GenEval(Benchmark):
    """Image i of prompt p has the seed `seed` + 4 p + i."""

    name = "geneval"

    def __init__(self, files: Sequence[Path], *, seed: int = 0) -> None:
        super().__init__(files, seed=seed)
        self.prompts = read_rows(files[0], _Prompt)

    @property
    def pictures(self) -> Sequence[Picture]:
        return [
            Picture(f"{number:05d}/samples/{image:04d}.png", row.prompt, (self.seed + IMAGES * number + image,))
            for number, row in enumerate(self.prompts)
            for image in range(IMAGES)
        ]

    def other_files(self, images: Path) -> Mapping[str, str]:
        return {
            f"{number:05d}/metadata.jsonl": json.dumps(row.model_dump(exclude_unset=True))
            for number, row in enumerate(self.prompts)
        }

    def reads(self, name: str) -> bool:
        return re.match(r"\d+/samples/\d+\.png", name) is not None

    def read_results(self, files: Sequence[Path]) -> list[Number]:
        """Share of correct pictures by tag, and the mean over tags, as the official summary has them."""
        rows = read_rows(files[0], _Result)
        found = [_place(row.filename) for row in rows]
        check_complete(files[0], found, [_place(picture.file) for picture in self.pictures], "picture")
        tags = list(dict.fromkeys(row.tag for row in rows))
        correct = {tag: [row.correct for row in rows if row.tag == tag] for tag in tags}
        means = {tag: sum(own) / len(own) for tag, own in correct.items()}
        return [
            *(Number(tag, value, "share", "higher", count=len(correct[tag])) for tag, value in means.items()),
            Number("overall", sum(means.values()) / len(means), "share", "higher", count=len(rows)),
        ]


def _place(name: str) -> str:
    """Prompt and image of a picture's file, whose digits the official generator writes in another number."""
    parts = Path(name).parts
    if len(parts) < 3 or not parts[-3].isdecimal() or not Path(name).stem.isdecimal():
        raise BenchmarkError(f"{name!r} is no name of a picture: it must end in 00000/samples/0000.png")
    return f"{int(parts[-3]):05d}/samples/{int(Path(name).stem):04d}.png"
