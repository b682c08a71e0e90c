"""Reports of runs: tables, pages and a leaderboard."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.benches import Benches

if TYPE_CHECKING:
    from bench.benchmarks.benchmark import Benchmark


def add_reports(benches: Benches) -> None:
    """Add the benches' parsers."""
    report = benches.add_parser("report", help="print a run's tables, and write the page of a run of paircomp")
    report.add_argument("folder", type=Path, metavar="RUN", help="folder of the run")
    report.add_argument(
        "--results", type=Path, nargs="+", metavar="FILE", help="result files of the benchmark's official evaluator"
    )
    report.add_argument("--scorer", metavar="NAME", help="name of what scored them (default: official)")
    report.add_argument("--against", type=Path, metavar="RUN", help="another run of paircomp, compared case by case")
    report.set_defaults(run=report_run)

    table = benches.add_parser("table", help="print a leaderboard of runs that have numbers, as Markdown")
    table.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    table.add_argument("--csv", type=Path, metavar="FILE", help="also write one line for each number")
    table.add_argument("--html", type=Path, metavar="FILE", help="also write a page")
    table.set_defaults(run=print_table)


def report_run(arguments: argparse.Namespace) -> None:
    """Print the tables, write numbers and page."""
    from bench.benchmarks.opening import benchmark_of
    from bench.benchmarks.paircomp import PairComp
    from bench.pictures.run_lock import RunLock

    if arguments.scorer is not None and arguments.results is None:
        raise ValueError("--scorer needs --results")
    benchmark = benchmark_of(arguments.folder)
    with RunLock(arguments.folder):
        if isinstance(benchmark, PairComp) and arguments.results is None:
            report_paircomp(arguments.folder, arguments.against)
            return
        if arguments.against is not None:
            raise ValueError("--against compares runs of paircomp; for others: focusdiff-bench table")
        if arguments.results is None:
            raise ValueError(f"--results must name the result files of {benchmark.name}'s official evaluator")
        report_results(benchmark, arguments.folder, arguments.results, arguments.scorer or "official")


def report_results(benchmark: "Benchmark", folder: Path, results: Sequence[Path], scorer: str) -> None:
    """Print a benchmark's numbers from its result files, and write them."""
    from bench.report.numbers import lines, write_scorer

    numbers = benchmark.read_results(results)
    write_scorer(folder, scorer, numbers)
    for line in lines(numbers):
        print(line)


def report_paircomp(folder: Path, against: Path | None = None) -> None:
    """Print a run's tables, and those of another, and write numbers and page."""
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


def print_table(arguments: argparse.Namespace) -> None:
    """Print the tables of several runs, and write them as files."""
    from bench.report.table import as_csv, as_html, as_markdown, tables

    found = tables(arguments.folders)
    for line in as_markdown(found):
        print(line)
    for file, text in ((arguments.csv, as_csv(found)), (arguments.html, as_html(found))):
        if file is not None:
            _write(file, text)


def _write(file: Path, text: str) -> None:
    from pairs.files import write_atomically

    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))
