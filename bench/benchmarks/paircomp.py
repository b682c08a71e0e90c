"""PairComp: two pictures of each prompt of pairs that differ in a word (paper, section 4).

Files are `{case}_{prompt}_{image}.png`. The paper's later version calls the benchmark DeltaBench; its cases have the same
fields. Cases that are shipped: `pairshapes`, the test cases of the procedural world, and `pairshapes-validation`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.benchmarks.benchmark import Benchmark
from bench.pictures.picture import Picture
from pairs.miniature import CaseSet, cases_file
from pairs.paircomp import read_cases

IMAGES = 2  # of each prompt
SHIPPED: dict[str, CaseSet] = {"pairshapes": "test", "pairshapes-validation": "validation"}


class PairComp(Benchmark):
    """Cases and their pictures.

    Image i of either prompt of case c has the seed `seed` + 2 c + i: both prompts of a case are drawn with the same
    noise, and no two cases are.
    """

    name = "paircomp"

    def __init__(self, files: Sequence[Path], *, seed: int = 0) -> None:
        super().__init__(files, seed=seed)
        self.cases = read_cases(files[0])

    @property
    def pictures(self) -> Sequence[Picture]:
        return [
            Picture(picture_file(case.number, prompt, image), text, (self.seed + IMAGES * case.number + image,))
            for case in self.cases
            for prompt, text in enumerate(case.prompts)
            for image in range(IMAGES)
        ]


def prompts_file(name: str) -> Path:
    """File of the cases that a name or path means."""
    return cases_file(SHIPPED[name]) if name in SHIPPED else Path(name)


def picture_file(case: int, prompt: int, image: int) -> str:
    """Name of a picture's file."""
    return f"{case}_{prompt}_{image}.png"


def places() -> Iterator[tuple[int, int]]:
    """Prompt and image of a case's pictures, in the official order."""
    return ((prompt, image) for prompt in (0, 1) for image in range(IMAGES))
