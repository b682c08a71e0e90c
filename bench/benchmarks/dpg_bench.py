"""DPG-Bench (Hu et al. 2024): 1,065 dense prompts, four pictures of each in one 2 × 2 grid.

Prompts: a folder of `{item}.txt`. Pictures: `{item}.png`; the evaluator's `--resolution` is the side of one cell.
Results: the evaluator's `…_results.txt`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from bench.benchmarks.benchmark import Benchmark, BenchmarkError, check_complete, read_text
from bench.measurements.measurement import Number
from bench.pictures.picture import Picture

IMAGES = 4  # of each prompt
_PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_SKIPPED = "partiprompts97"
_SCORE = re.compile(r"^DPG-Bench score: (\S+)$", re.MULTILINE)
_CATEGORY = re.compile(r"^\t(.+): (\S+)$", re.MULTILINE)


class DpgBench(Benchmark):
    """Cell i of the grid of item p, in the order of names, has the seed `seed` + 4 p + i."""

    name = "dpg-bench"

    def __init__(self, files: Sequence[Path], *, seed: int = 0) -> None:
        super().__init__(files, seed=seed)
        self._prompts = {file.stem: read_text(file).strip() for file in files}
        if len(self._prompts) < len(files):
            raise BenchmarkError(f"{', '.join(map(str, files))}: an item is given twice")
        for file in files:
            if file.suffix != ".txt" or not self._prompts[file.stem]:
                raise BenchmarkError(f"{file}: must be a .txt file with a prompt")

    @property
    def pictures(self) -> Sequence[Picture]:
        return [
            Picture(f"{item}.png", prompt, tuple(self.seed + IMAGES * number + image for image in range(IMAGES)))
            for number, (item, prompt) in enumerate(self._prompts.items())
        ]

    def reads(self, name: str) -> bool:
        return Path(name).suffix.lower() in _PICTURE_TYPES

    def read_results(self, files: Sequence[Path]) -> list[Number]:
        """The score and its categories, 0 to 1.

        The evaluator leaves out pictures that it could not read or score, which is an error here, but for one item:
        it skips the first question of its list, and so cannot score the picture that it belongs to.
        """
        text = read_text(files[0])
        score = _SCORE.search(text)
        if score is None:
            raise BenchmarkError(f"{files[0]} has no line 'DPG-Bench score: …'")
        rows, _, summary = text.partition("\nModel:")
        items = [Path(row.rsplit(", ", IMAGES + 1)[0]).stem for row in rows.splitlines() if row.strip()]
        check_complete(files[0], items, [item for item in self._prompts if item in items or item != _SKIPPED], "item")
        found = {"overall": score.group(1), **dict(_CATEGORY.findall(summary.partition("L2 category")[0]))}
        try:
            values = {name: float(value) / 100 for name, value in found.items()}
        except ValueError as error:
            raise BenchmarkError(f"{files[0]}: {error}") from None
        return [
            Number(name, value, "share", "higher", count=len(items) if name == "overall" else None)
            for name, value in values.items()
        ]
