"""Benchmarks of any model, from prompts to a report."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.benches import Benches
from bench.detection.scorer import CLIP, DETECTOR
from bench.pictures.arguments import add_run_arguments, check_run_arguments
from pairs.judges.settings import add_judge_arguments, judge_settings

if TYPE_CHECKING:
    from bench.benchmarks.benchmark import Benchmark
    from bench.benchmarks.geneval import GenEval

_OTHERS = {  # help for the command and for its prompts
    "geneval": ("draw GenEval's pictures, four of each prompt", "evaluation_metadata.jsonl"),
    "t2i-compbench": ("draw T2I-CompBench's pictures, ten of each prompt", "files {category}_val.txt, or their folder"),
    "dpg-bench": ("draw DPG-Bench's pictures, grids of four", "folder of the .txt files"),
    "geneval2": ("draw GenEval 2's pictures, one of each prompt", "geneval2_data.jsonl"),
    "wise": ("draw WISE's pictures, one of each prompt", "JSON files of prompts, of the paper or of WISE Verified"),
}


def add_benchmarks(benches: Benches) -> None:
    """Add the benches' parsers."""
    paircomp = benches.add_parser("paircomp", help="draw and judge PairComp, or its miniature; resumes")
    paircomp.add_argument(
        "--prompts",
        nargs=1,
        default=["pairshapes"],
        metavar="FILE",
        help="PairComp.json; or pairshapes, pairshapes-validation: shipped cases of the procedural world "
        "(default: pairshapes)",
    )
    add_run_arguments(paircomp)
    add_judge_arguments(paircomp)
    paircomp.set_defaults(run=run_paircomp)

    for name, (does, prompts) in _OTHERS.items():
        parser = benches.add_parser(name, help=f"{does}; resumes")
        parser.add_argument("--prompts", nargs="+", required=True, metavar="FILE", help=prompts)
        add_run_arguments(parser)
        if name == "geneval":
            _add_scorer_arguments(parser)
        parser.set_defaults(run=run_other)

    report = benches.add_parser("report", help="print a run's tables, and write the page of a run of paircomp")
    report.add_argument("folder", type=Path, metavar="RUN", help="folder of the run")
    report.add_argument(
        "--results", type=Path, nargs="+", metavar="FILE", help="result files of the benchmark's official evaluator"
    )
    report.add_argument("--scorer", default="official", metavar="NAME", help="name of what scored them")
    report.add_argument("--against", type=Path, metavar="RUN", help="another run of paircomp, compared case by case")
    report.set_defaults(run=report_run)

    table = benches.add_parser("table", help="print a leaderboard of runs that have numbers, as Markdown")
    table.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    table.add_argument("--csv", type=Path, metavar="FILE", help="also write one line for each number")
    table.add_argument("--html", type=Path, metavar="FILE", help="also write a page")
    table.set_defaults(run=print_table)


def _add_scorer_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scorer, in place of the official one")
    group.add_argument("--score", action="store_true", help="score the pictures with a detector and CLIP")
    group.add_argument("--detector", default=DETECTOR, metavar="SOURCE", help="Mask2Former (default: %(default)s)")
    group.add_argument("--clip", default=CLIP, metavar="SOURCE", help="CLIP (default: %(default)s)")


def print_table(arguments: argparse.Namespace) -> None:
    """Print the tables of several runs, and write them as files."""
    from bench.report.table import as_csv, as_html, as_markdown, tables

    found = tables(arguments.folders)
    for line in as_markdown(found):
        print(line)
    for file, text in ((arguments.csv, as_csv(found)), (arguments.html, as_html(found))):
        if file is not None:
            _write(file, text)


def run_paircomp(arguments: argparse.Namespace) -> None:
    """Draw, judge and report."""
    _prepare(arguments)
    settings = judge_settings(arguments)

    from bench.benchmarks.paircomp import PairComp
    from bench.benchmarks.running import open_run
    from bench.judging.paircomp import run
    from bench.pictures.opening import open_generator
    from pairs.judges.opening import open_judge

    benchmark = _benchmark(arguments)
    assert isinstance(benchmark, PairComp)
    generator = open_generator(arguments)
    open_run(benchmark, generator, arguments.out)  # or the judge's cache would make the folder
    judge = open_judge(settings, cache=arguments.out / "judgements" / "answers.sqlite")
    run(benchmark, generator, judge, arguments.out)
    _report_paircomp(arguments.out)


def run_other(arguments: argparse.Namespace) -> None:
    """Draw the pictures, and say what comes next."""
    _prepare(arguments)

    from bench.benchmarks.geneval import GenEval
    from bench.benchmarks.running import draw_run
    from bench.pictures.opening import open_generator

    benchmark = _benchmark(arguments)
    run = draw_run(benchmark, open_generator(arguments), arguments.out)
    print(f"{len(benchmark.pictures)} pictures in {run.images}, as the official evaluator reads them")
    if getattr(arguments, "score", False):
        assert isinstance(benchmark, GenEval)
        _score_geneval(arguments, benchmark)
    else:
        print(f"then: focusdiff-bench report {arguments.out} --results FILES")


def _score_geneval(arguments: argparse.Namespace, benchmark: "GenEval") -> None:
    """Score the pictures by our own scorer, and report."""
    from bench.detection.opening import open_scorer
    from bench.detection.scoring import score_folder
    from bench.judging.judgements import slug

    scorer = open_scorer(arguments.detector, arguments.clip, device=arguments.device)
    name = f"{Path(arguments.detector).name} and {Path(arguments.clip).name}"
    results = arguments.out / f"results-{slug(name)}.jsonl"
    score_folder(arguments.out / "images", results, scorer, prompts=benchmark.prompts)
    report_run(argparse.Namespace(folder=arguments.out, results=[results], scorer=name, against=None))


def report_run(arguments: argparse.Namespace) -> None:
    """Print the tables, write numbers and page."""
    from bench.benchmarks.opening import benchmark_of
    from bench.benchmarks.paircomp import PairComp
    from bench.report.numbers import lines, write_scorer

    benchmark = benchmark_of(arguments.folder)
    if isinstance(benchmark, PairComp) and arguments.results is None:
        _report_paircomp(arguments.folder, arguments.against)
        return
    if arguments.against is not None:
        raise ValueError("--against compares runs of paircomp; for others: focusdiff-bench table")
    if arguments.results is None:
        raise ValueError(f"--results must name the result files of {benchmark.name}'s official evaluator")
    numbers = benchmark.read_results(arguments.results)
    write_scorer(arguments.folder, arguments.scorer, numbers)
    for line in lines(numbers):
        print(line)


def _write(file: Path, text: str) -> None:
    from pairs.files import write_atomically

    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))


def _prepare(arguments: argparse.Namespace) -> None:
    """Check the arguments, before torch is imported."""
    check_run_arguments(arguments)
    # the engine's threads then sleep while they wait for each other, and leave cores to the judge and the writers
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _benchmark(arguments: argparse.Namespace) -> "Benchmark":
    from bench.benchmarks.opening import open_benchmark

    return open_benchmark(arguments.bench, arguments.prompts, seed=arguments.seed)


def _report_paircomp(folder: Path, against: Path | None = None) -> None:
    from bench.report.numbers import write_scorer
    from bench.report.page import write_page
    from bench.report.paircomp_run import read_run
    from bench.report.paircomp_text import difference_lines, lines

    run = read_run(folder)
    for judge in run.judges:
        write_scorer(folder, judge.name, judge.table.numbers)
    other = None if against is None else read_run(against)
    printed = [*lines(run), *([] if other is None else [*lines(other), *difference_lines(run, other)])]
    for line in printed:
        print(line)
    page = folder / ("report.html" if other is None else f"against-{other.folder.resolve().name}.html")
    write_page(page, run, other)
    print(f"page: {page}")
