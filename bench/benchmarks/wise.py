"""WISE (Niu et al. 2025): world knowledge, one picture of each of 1000 prompts.

Prompts: the JSON files of the paper's version, or those of WISE Verified of 2026, whose prompts, scale and weights
differ. Pictures: `{prompt_id}.png`. Results: the evaluator's `…_scores_results.jsonl`, which tell the versions apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bench.benchmarks.benchmark import Benchmark, BenchmarkError, check_complete, read_rows
from bench.measurements.measurement import Number
from bench.pictures.picture import Picture

Version = Literal["paper", "verified"]


@dataclass(frozen=True)
class _Category:
    name: str
    last: int  # prompt_id; the first follows the category before
    weight: float


_CATEGORIES: dict[Version, tuple[_Category, ...]] = {
    "paper": (
        _Category("cultural", 400, 0.4),
        _Category("time", 567, 0.167),
        _Category("space", 700, 0.133),
        _Category("biology", 800, 0.1),
        _Category("physics", 900, 0.1),
        _Category("chemistry", 1000, 0.1),
    ),
    "verified": (
        _Category("cultural", 400, 0.4),
        _Category("time", 520, 0.12),
        _Category("space", 640, 0.12),
        _Category("biology", 760, 0.12),
        _Category("physics", 880, 0.12),
        _Category("chemistry", 1000, 0.12),
    ),
}
_Grade = Annotated[float, Field(ge=0, le=2)]


class _Prompt(BaseModel):
    prompt_id: Annotated[int, Field(ge=1, le=1000)]
    Prompt: str = Field(min_length=1)


class _PaperScore(BaseModel):
    prompt_id: int
    consistency: _Grade
    realism: _Grade
    aesthetic_quality: _Grade

    @property
    def value(self) -> float:
        """WiScore, 0 to 1."""
        return (0.7 * self.consistency + 0.2 * self.realism + 0.1 * self.aesthetic_quality) / 2


class _AnyScore(BaseModel):
    prompt_id: int
    score: float | None = None


class _VerifiedScore(BaseModel):
    prompt_id: int
    score: Literal[0, 1]

    @property
    def value(self) -> float:
        return float(self.score)


class Wise(Benchmark):
    """The picture of prompt_id p has the seed `seed` + p."""

    name = "wise"

    def __init__(self, files: Sequence[Path], *, seed: int = 0) -> None:
        super().__init__(files, seed=seed)
        rows = [row for file in files for row in read_rows(file, _Prompt)]
        self._prompts = {row.prompt_id: row.Prompt for row in sorted(rows, key=lambda row: row.prompt_id)}
        if len(self._prompts) < len(rows):
            raise BenchmarkError(f"{', '.join(map(str, files))}: a prompt_id occurs twice: give each file once")

    @property
    def pictures(self) -> Sequence[Picture]:
        return [Picture(f"{number}.png", prompt, (self.seed + number,)) for number, prompt in self._prompts.items()]

    def read_results(self, files: Sequence[Path]) -> list[Number]:
        """Mean score by category, and their weighted sum if all categories are there."""
        version = _version(files[0])
        kind: type[_PaperScore | _VerifiedScore] = _PaperScore if version == "paper" else _VerifiedScore
        rows = [row for file in files for row in read_rows(file, kind)]
        check_complete(", ".join(map(str, files)), [row.prompt_id for row in rows], list(self._prompts), "prompt_id")
        numbers, overall, first = [], 0.0, 1
        categories = _CATEGORIES[version]
        for category in categories:
            own = [row.value for row in rows if first <= row.prompt_id <= category.last]
            first = category.last + 1
            if own:
                mean = sum(own) / len(own)
                overall += category.weight * mean
                numbers.append(Number(category.name, mean, "share", "higher", count=len(own)))
        if len(numbers) == len(categories):
            numbers.append(Number("overall", overall, "share", "higher", count=len(rows)))
        return numbers


def _version(file: Path) -> Version:
    """Version that a file of scores belongs to."""
    return "verified" if read_rows(file, _AnyScore)[0].score is not None else "paper"
