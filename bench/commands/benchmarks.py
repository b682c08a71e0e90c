"""Benchmarks of any model: pictures drawn, judged or scored."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.benches import Benches
from bench.commands.reports import report_paircomp, report_results
from bench.commands.threads import leave_a_core, let_threads_sleep
from bench.detection.scorer import CLIP, DETECTOR
from bench.pictures.arguments import (
    BEST_OF,
    GENERATORS,
    add_run_arguments,
    check_run_arguments,
    chosen_generator,
)
from bench.pictures.options import Part, refuse_ignored, remember_defaults
from pairs.judges.settings import add_judge_arguments, judge_settings

if TYPE_CHECKING:
    from bench.benchmarks.benchmark import Benchmark
    from bench.benchmarks.geneval import GenEval
    from bench.pictures.run_folder import RunFolder

logger = logging.getLogger("focusdiff")

_OTHERS = {  # help for the command and for its prompts
    "geneval": ("draw GenEval's pictures, four of each prompt", "evaluation_metadata.jsonl"),
    "t2i-compbench": ("draw T2I-CompBench's pictures, ten of each prompt", "files {category}_val.txt, or their folder"),
    "dpg-bench": ("draw DPG-Bench's pictures, grids of four", "folder of the .txt files"),
    "geneval2": ("draw GenEval 2's pictures, one of each prompt", "geneval2_data.jsonl"),
    "wise": ("draw WISE's pictures, one of each prompt", "JSON files of prompts, of the paper or of WISE Verified"),
}
_PARTS = (*GENERATORS.values(), BEST_OF)  # of every command
_SCORER = Part("--score", frozenset({"detector", "clip", "device"}))


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
    remember_defaults(paircomp, _PARTS)
    paircomp.set_defaults(run=run_paircomp)

    for name, (does, prompts) in _OTHERS.items():
        parser = benches.add_parser(name, help=f"{does}; resumes")
        parser.add_argument("--prompts", nargs="+", required=True, metavar="FILE", help=prompts)
        add_run_arguments(parser)
        if name == "geneval":
            _add_scorer_arguments(parser)
        remember_defaults(parser, (*_PARTS, _SCORER) if name == "geneval" else _PARTS)
        parser.set_defaults(run=run_other)


def _add_scorer_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scorer, in place of the official one")
    group.add_argument("--score", action="store_true", help="score the pictures with a detector and CLIP")
    group.add_argument("--detector", default=DETECTOR, metavar="SOURCE", help="Mask2Former (default: %(default)s)")
    group.add_argument("--clip", default=CLIP, metavar="SOURCE", help="CLIP (default: %(default)s)")


def run_paircomp(arguments: argparse.Namespace) -> None:
    """Draw, judge and report; a judge that cannot read the prompts is named before the first picture."""
    _prepare(arguments)
    settings = judge_settings(arguments)

    from bench.benchmarks.paircomp import PairComp
    from bench.benchmarks.running import draw_run, open_run
    from bench.judging.judgements import answers_file
    from bench.judging.paircomp import run
    from bench.pictures.opening import open_generator
    from bench.pictures.run_lock import RunLock
    from pairs.judges.opening import open_judge

    benchmark = _benchmark(arguments)
    assert isinstance(benchmark, PairComp)
    with RunLock(arguments.out) as lock:
        cache = answers_file(arguments.out)
        generator = open_generator(arguments, cache=cache)
        judge = open_judge(settings, cache=cache)
        unread = next((prompt for case in benchmark.cases for prompt in case.prompts if not judge.reads(prompt)), None)
        if unread is None:
            if settings.kind != "endpoint":
                leave_a_core()
            run(benchmark, generator, judge, open_run(benchmark, generator, lock))
            report_paircomp(arguments.out)
            return
        logger.warning("nothing is judged: the %s judge cannot read %r; name another with --judge", judge.name, unread)
        _say_drawn(draw_run(benchmark, generator, lock), benchmark)


def run_other(arguments: argparse.Namespace) -> None:
    """Draw the pictures, and say what comes next."""
    _prepare(arguments)

    from bench.benchmarks.geneval import GenEval
    from bench.benchmarks.running import draw_run
    from bench.judging.judgements import answers_file
    from bench.pictures.opening import open_generator
    from bench.pictures.run_lock import RunLock

    benchmark = _benchmark(arguments)
    with RunLock(arguments.out) as lock:
        generator = open_generator(arguments, cache=answers_file(arguments.out))
        run = draw_run(benchmark, generator, lock)
        _say_drawn(run, benchmark)
        if getattr(arguments, "score", False):
            assert isinstance(benchmark, GenEval)
            _score_geneval(arguments, benchmark)
        else:
            print(f"then: focusdiff-bench report {arguments.out} --results FILES")


def _say_drawn(run: "RunFolder", benchmark: "Benchmark") -> None:
    print(f"{len(benchmark.pictures)} pictures in {run.images}, as the official evaluator reads them")


def _score_geneval(arguments: argparse.Namespace, benchmark: "GenEval") -> None:
    """Score the pictures by our own scorer, and report."""
    from bench.detection.opening import open_scorer
    from bench.detection.scoring import score_folder
    from bench.judging.judgements import slug

    scorer = open_scorer(arguments.detector, arguments.clip, device=arguments.device)
    name = f"{Path(arguments.detector).name} and {Path(arguments.clip).name}"
    results = arguments.out / f"results-{slug(name)}.jsonl"
    score_folder(arguments.out / "images", results, scorer, prompts=benchmark.prompts)
    report_results(benchmark, arguments.out, [results], name)


def _prepare(arguments: argparse.Namespace) -> None:
    """Check the arguments, before torch is imported."""
    check_run_arguments(arguments)
    parts = (*_PARTS, _SCORER) if "score" in arguments else _PARTS
    chosen = [GENERATORS[chosen_generator(arguments)]]
    chosen += [BEST_OF] if arguments.best_of > 1 else []
    chosen += [_SCORER] if getattr(arguments, "score", False) else []
    refuse_ignored(arguments, parts, chosen)
    let_threads_sleep()


def _benchmark(arguments: argparse.Namespace) -> "Benchmark":
    from bench.benchmarks.opening import open_benchmark

    return open_benchmark(arguments.bench, arguments.prompts, seed=arguments.seed)
