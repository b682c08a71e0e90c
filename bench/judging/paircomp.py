"""A run of PairComp: pictures drawn, and judged meanwhile.

cases → missing pictures → draw → file → judge → scores
"""

from pathlib import Path

from bench.benchmarks.paircomp import PairComp
from bench.benchmarks.running import open_run
from bench.judging.judgements import Judgements, judgements_file
from bench.judging.judging import Judging
from bench.judging.score_file import write_scores
from bench.pictures.drawing import draw_pictures
from bench.pictures.generator import Generator
from pairs.judges.opening import OpenedJudge


def run(benchmark: PairComp, generator: Generator, judge: OpenedJudge, folder: Path) -> None:
    """Draw what is missing, judge what has no score, and write the scores.

    Args:
        benchmark: cases.
        generator: draws them.
        judge: scores the pictures.
        folder: of the run; a stopped run goes on there.

    Raises:
        RunError: the folder holds something else, or a damaged picture.
        JudgementError: the folder has scores of another judge of this name, or all scores are equal.
        GenerationError: a picture cannot be drawn.
    """
    opened = open_run(benchmark, generator, folder)
    pictures = benchmark.pictures
    missing = opened.missing(pictures, reads=benchmark.reads)
    drawn_before = set(pictures) - set(missing)
    file = judgements_file(folder, judge)
    judgements = Judgements(file, judge)
    with Judging(judge, judgements, opened.images, total=len(pictures)) as judging:
        for picture in pictures:
            if picture in drawn_before and picture.file not in judgements.scores:
                judging.put(picture)
        draw_pictures(opened, pictures, missing, generator, on_picture=judging.put)
    judgements.check()
    write_scores(folder / "scores" / f"{file.stem}.json", benchmark.cases, judgements.scores)
