"""A run of PairComp: pictures drawn, and judged meanwhile.

cases → missing pictures → draw → file → judge → scores
"""

from bench.benchmarks.paircomp import PairComp
from bench.judging.judge_process import judged_apart
from bench.judging.judgements import Judgements, judgements_file
from bench.judging.judging import Judging
from bench.judging.score_file import write_scores
from bench.pictures.drawing import draw_pictures
from bench.pictures.generator import Generator
from bench.pictures.run_folder import RunFolder
from pairs.judges.opening import OpenedJudge


def run(benchmark: PairComp, generator: Generator, judge: OpenedJudge, folder: RunFolder) -> None:
    """Draw what is missing, judge what has no score, and write the scores.

    Args:
        benchmark: cases.
        generator: draws them.
        judge: scores the pictures.
        folder: of the run, opened with the settings of both.

    Raises:
        RunError: the folder holds a damaged picture, or one of another run.
        JudgementError: the folder has scores of another judge of this name, or all scores are equal.
        GenerationError: a picture cannot be drawn.
    """
    pictures = benchmark.pictures
    missing = folder.missing(pictures, reads=benchmark.reads)
    absent = set(missing)
    file = judgements_file(folder.folder, judge.name)
    judgements = Judgements(file, judge)
    with judged_apart(judge) as apart, Judging(apart, judgements, folder.images, total=len(pictures)) as judging:
        for picture in pictures:
            if picture not in absent:
                judging.put(picture)
        draw_pictures(folder, pictures, missing, generator, on_picture=judging.put)
    judgements.check()
    write_scores(folder.folder / "scores" / f"{file.stem}.json", benchmark.cases, judgements.scores)
