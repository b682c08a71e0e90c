"""GenEval 2 (Kamath et al. 2025): one picture of each of 800 prompts, scored question by question (Soft-TIFA).

Prompts: `geneval2_data.jsonl`. Pictures: `00000.png` …, and `image_paths.json`, the evaluator's `--image_filepath_data`.
Results: the evaluator's `--output_file`, a list of scores for each prompt.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from scipy.stats import gmean

from bench.benchmarks.benchmark import Benchmark, BenchmarkError, read_rows, read_text
from bench.measurements.measurement import Number
from bench.pictures.picture import Picture

_SCORES = TypeAdapter(list[list[Annotated[float, Field(ge=0, le=1)]]])


class _Prompt(BaseModel):
    prompt: str = Field(min_length=1)
    atom_count: int
    vqa_list: list[tuple[str, str]] = Field(min_length=1)
    skills: list[str]


class GenEval2(Benchmark):
    """The picture of prompt p has the seed `seed` + p."""

    name = "geneval2"

    def __init__(self, files: Sequence[Path], *, seed: int = 0) -> None:
        super().__init__(files, seed=seed)
        self._prompts = read_rows(files[0], _Prompt)
        for number, row in enumerate(self._prompts, start=1):
            if len(row.skills) != len(row.vqa_list):
                raise BenchmarkError(f"{files[0]}, row {number}: skills must have one entry for each of vqa_list")

    @property
    def pictures(self) -> Sequence[Picture]:
        return [
            Picture(f"{number:05d}.png", row.prompt, (self.seed + number,)) for number, row in enumerate(self._prompts)
        ]

    def other_files(self, images: Path) -> Mapping[str, str]:
        paths = {picture.prompt: str((images / picture.file).resolve()) for picture in self.pictures}
        return {"image_paths.json": json.dumps(paths, indent=1)}

    def read_results(self, files: Sequence[Path]) -> list[Number]:
        """Soft-TIFA as geometric (GM) and arithmetic mean (AM) of a prompt's questions; AM by skill, GM by atoms."""
        try:
            scores = _SCORES.validate_json(read_text(files[0]))
        except ValidationError as error:
            first = error.errors()[0]
            raise BenchmarkError(f"{files[0]}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if len(scores) != len(self._prompts):
            raise BenchmarkError(f"{files[0]} has scores of {len(scores)} prompts, not of {len(self._prompts)}")
        skills: dict[str, list[float]] = defaultdict(list)
        atoms: dict[int, list[float]] = defaultdict(list)
        for number, (row, own) in enumerate(zip(self._prompts, scores, strict=True), start=1):
            if len(own) != len(row.skills):
                raise BenchmarkError(
                    f"{files[0]}: prompt {number} has {len(own)} scores for {len(row.skills)} questions"
                )
            for skill, score in zip(row.skills, own, strict=True):
                skills[skill].append(score)
            atoms[row.atom_count].append(float(gmean(own)))
        arithmetic = [sum(own) / len(own) for own in scores]
        return [
            _mean("Soft-TIFA GM", [value for own in atoms.values() for value in own]),
            _mean("Soft-TIFA AM", arithmetic),
            *(_mean(f"AM {skill}", own) for skill, own in skills.items()),
            *(_mean(f"GM of {count} atoms", atoms[count]) for count in sorted(atoms)),
        ]


def _mean(name: str, values: Sequence[float]) -> Number:
    return Number(name, sum(values) / len(values), "share", "higher", count=len(values))
