"""T2I-CompBench++ (Huang et al. 2023, 2025): attributes, relations, numbers; ten pictures of each prompt.

Prompts: `{category}_val.txt`, one a line. Pictures: `{category}/samples/{prompt}_{number:06d}.png`, numbered over the
category; each category's folder is the `--out_dir` or `--outpath` of its evaluator.
Results: the folder of pictures, where the evaluators leave them.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from bench.benchmarks.benchmark import Benchmark, BenchmarkError, read_rows, read_text
from bench.measurements.measurement import Number
from bench.pictures.picture import Picture

IMAGES = 10  # of each prompt
_SUFFIX = "_val"
_RESULTS = {  # by category, the evaluator's folder of the score that counts
    "color": "annotation_blip",
    "shape": "annotation_blip",
    "texture": "annotation_blip",
    "spatial": "labels/annotation_obj_detection_2d",
    "3d_spatial": "labels/annotation_obj_detection_3d",
    "numeracy": "annotation_num",
    "non_spatial": "annotation_clip",
    "complex": "annotation_3_in_1",
}
_NAME_BYTES = 255  # of a file, on common file systems


class _Answer(BaseModel):
    question_id: int
    answer: Annotated[float, Field(allow_inf_nan=False)]


class T2ICompBench(Benchmark):
    """Image i of line p of a category has the seed `seed` + 10 p + i."""

    name = "t2i-compbench"

    def __init__(self, files: Sequence[Path], *, seed: int = 0) -> None:
        super().__init__(files, seed=seed)
        self._prompts = {_category(file): _lines(file) for file in files}
        if len(self._prompts) < len(files):
            raise BenchmarkError(f"{', '.join(map(str, files))}: a category is given twice")

    @property
    def pictures(self) -> Sequence[Picture]:
        return [
            Picture(
                f"{category}/samples/{prompt}_{IMAGES * line + image:06d}.png",
                prompt,
                (self.seed + IMAGES * line + image,),
            )
            for category, prompts in self._prompts.items()
            for line, prompt in enumerate(prompts)
            for image in range(IMAGES)
        ]

    def reads(self, name: str) -> bool:
        """The evaluators take every file in `samples` for a picture."""
        return Path(name).parent.name == "samples" and name.count("/") == 2

    def read_results(self, files: Sequence[Path]) -> list[Number]:
        """Mean score of each category's pictures; categories that have not been scored are left out."""
        numbers = []
        for category, prompts in self._prompts.items():
            file = files[0] / category / _RESULTS[category] / "vqa_result.json"
            if not file.exists():
                continue
            answers = [row.answer for row in read_rows(file, _Answer)]
            if len(answers) != IMAGES * len(prompts):
                raise BenchmarkError(f"{file} has {len(answers)} answers for {IMAGES * len(prompts)} pictures")
            numbers.append(Number(category, math.fsum(answers) / len(answers), "share", "higher", count=len(answers)))
        if not numbers:
            raise BenchmarkError(
                f"{files[0]} has no results of an evaluator, such as */annotation_blip/vqa_result.json"
            )
        return numbers


def _category(file: Path) -> str:
    category = file.stem.removesuffix(_SUFFIX)
    if category not in _RESULTS or file.stem != category + _SUFFIX:
        raise BenchmarkError(f"{file}: must be named CATEGORY{_SUFFIX}.txt, of {', '.join(_RESULTS)}")
    return category


def _lines(file: Path) -> list[str]:
    lines = read_text(file).splitlines()  # some files have CRLF
    if not lines:
        raise BenchmarkError(f"{file} is empty")
    for number, line in enumerate(lines, start=1):
        if not line.strip() or any(character in line for character in "/_\t"):
            raise BenchmarkError(f"{file}, line {number}: a prompt must be text without /, _ and tabs: {line!r}")
        if len(line.encode()) > _NAME_BYTES - len("._000000.png.partial"):
            raise BenchmarkError(f"{file}, line {number}: the prompt is too long for a file's name")
    return lines
