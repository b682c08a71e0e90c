"""GenEval (Ghosh et al. 2023): objects, counts, colours and positions, four pictures of each of 553 prompts.

Prompts: `evaluation_metadata.jsonl`. Pictures: `00000/samples/0000.png` …, beside `00000/metadata.jsonl`.
Results: `results.jsonl` of the official evaluator, or of `bench.detection`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.benchmarks.benchmark import Benchmark, BenchmarkError, check_complete
from bench.detection.metadata import read_metadata
from bench.detection.results import read_results
from bench.detection.summary import Share, summarise
from bench.measurements.measurement import Number
from bench.pictures.picture import Picture

IMAGES = 4  # of each prompt


class GenEval(Benchmark):
    """Image i of prompt p has the seed `seed` + 4 p + i."""

    name = "geneval"

    def __init__(self, files: Sequence[Path], *, seed: int = 0) -> None:
        super().__init__(files, seed=seed)
        self.prompts = read_metadata(files[0])

    @property
    def pictures(self) -> Sequence[Picture]:
        return [
            Picture(f"{number:05d}/samples/{image:04d}.png", row.prompt, (self.seed + IMAGES * number + image,))
            for number, row in enumerate(self.prompts)
            for image in range(IMAGES)
        ]

    def other_files(self, images: Path) -> Mapping[str, str]:
        return {f"{number:05d}/metadata.jsonl": row.as_json() for number, row in enumerate(self.prompts)}

    def reads(self, name: str) -> bool:
        return re.match(r"\d+/samples/\d+\.png", name) is not None

    def read_results(self, files: Sequence[Path]) -> list[Number]:
        """Share of correct pictures by tag, and its mean over tags, as the official summary computes them."""
        results = read_results(files[0])
        places = [_place(result.filename) for result in results]
        check_complete(files[0], places, [_place(picture.file) for picture in self.pictures], "picture")
        summary = summarise(results)
        return [
            *(_number(tag, share) for tag, share in summary.tags.items()),
            Number("overall", summary.score, "share", "higher", count=summary.images.count),
        ]


def _number(name: str, share: Share) -> Number:
    return Number(name, share.value, "share", "higher", count=share.count)


def _place(name: str) -> str:
    """Prompt and image of a picture's file; the official generator writes more digits."""
    parts = Path(name).parts
    if len(parts) < 3 or not parts[-3].isdecimal() or not Path(name).stem.isdecimal():
        raise BenchmarkError(f"{name!r} is no name of a picture: it must end in 00000/samples/0000.png")
    return f"{int(parts[-3]):05d}/samples/{int(Path(name).stem):04d}.png"
