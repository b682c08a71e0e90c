"""`focusdiff-train ablation`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from model.cli import CommandParser
from pairs.files import write_atomically

if TYPE_CHECKING:
    from train.ablation.ablation import Ablation

_BASE = "vanilla"  # arm that the others are compared with


def add_ablation(stages: "argparse._SubParsersAction[CommandParser]") -> None:
    """Add the command to those of `focusdiff-train`."""
    ablation = stages.add_parser("ablation", help="train arms that differ in one switch, and compare them")
    ablation.add_argument("--study", default="ablation", help="name of a shipped study, or a .toml file")
    ablation.add_argument("--start", default="tiny-base", help="checkpoint of the study (default: tiny-base)")
    ablation.add_argument("--arms", nargs="+", default=[], metavar="ARM", help="of the study (default: all)")
    ablation.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="of the study (default: all)")
    ablation.add_argument("--jobs", type=int, default=1, help="processes, of one thread each (default: 1)")
    ablation.add_argument("--out", type=Path, required=True, help="folder of the runs, which resume there")
    ablation.add_argument("--results", type=Path, help="folder of the small files that are kept (default: OUT/results)")
    instead = ablation.add_mutually_exclusive_group()
    instead.add_argument(
        "--report",
        action="store_true",
        help="train nothing; print tables of the results that are there, as Markdown, and draw figures into OUT",
    )
    instead.add_argument(
        "--sheet",
        action="store_true",
        help="draw the same prompts by the first seed of every arm, which is trained if it is not, into OUT/sheet.png",
    )
    instead.add_argument(
        "--labels",
        type=int,
        metavar="PICTURES",
        help="draw so many pictures of every arm likewise, to be labelled by eye, into OUT/labelled; print a table of labels",
    )
    instead.add_argument(
        "--gradients",
        type=int,
        metavar="PAIRS",
        help="train nothing; compare the arms' gradients at the start on so many pairs of prompts, and print a table",
    )
    ablation.set_defaults(run=run_ablation)


def run_ablation(arguments: argparse.Namespace) -> None:
    """Run what is not finished, a line for each run; or what was asked for instead."""
    from train.ablation.ablation import Ablation
    from train.ablation.study import load_study, select

    if arguments.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, not {arguments.jobs}")
    study = load_study(arguments.study)
    (start,) = select([arguments.start], study.starts, option="--start")
    arms = select(arguments.arms, study.arms, option="--arms")
    seeds = select(arguments.seeds, study.seeds, option="--seeds")
    ablation = Ablation(study, start, arms, seeds, arguments.out, arguments.results or arguments.out / "results")
    if arguments.gradients is not None:
        _compare_gradients(ablation, arguments.gradients)
    elif arguments.report:
        _report(ablation)
    elif arguments.sheet:
        _draw_sheet(ablation, arguments.jobs)
    elif arguments.labels is not None:
        _label(ablation, arguments.labels, arguments.jobs)
    else:
        _perform(ablation, arguments.jobs)


def _perform(ablation: "Ablation", jobs: int) -> None:
    from train.ablation.run import PRIMARY

    for run, result in ablation.perform(jobs=jobs):
        score, minutes = result.s_g(PRIMARY).mean(), result.cost.core_minutes
        print(f"{run.key}: rate factor {run.factor:g}, s_g {score:.3f}, {minutes:.1f} core-minutes", flush=True)


def _report(ablation: "Ablation") -> None:
    from train.ablation.figures import draw_contrasts, draw_curves
    from train.ablation.report import Report

    report = Report(ablation.study, ablation.finished)
    for line in report.lines():
        print(line)
    ablation.out.mkdir(parents=True, exist_ok=True)
    draw_contrasts(report.contrasts(), ablation.out / "contrasts.png")
    draw_curves(ablation.rewards, _BASE, ablation.out / "curves.png")


def _draw_sheet(ablation: "Ablation", jobs: int) -> None:
    from train.ablation.sheet import arms_sheet

    ablation.train(ablation.seeds[0], jobs=jobs)
    sheet = arms_sheet(ablation, ablation.seeds[0])
    # a third of the bytes; without k-means, the 256 colours mix red with orange
    sheet = sheet.quantize(256, kmeans=3, dither=Image.Dither.NONE)
    ablation.out.mkdir(parents=True, exist_ok=True)
    write_atomically(ablation.out / "sheet.png", lambda partial: sheet.save(partial, format="PNG"))


def _label(ablation: "Ablation", count: int, jobs: int) -> None:
    from train.ablation.labels import draw_pictures, label_lines, read_labels

    if count < 1:
        raise ValueError(f"--labels must be at least 1, not {count}")
    folder = ablation.out / "labelled" / Path(ablation.start).name
    if not folder.exists():
        ablation.train(ablation.seeds[0], jobs=jobs)
        draw_pictures(ablation, ablation.seeds[0], count, folder)
        number = count * len(ablation.arms)
        print(
            f'{number} pictures to be labelled are in {folder}: set every "shown" in labels.json, then repeat this command'
        )
        return
    for line in label_lines(read_labels(folder)):
        print(line)


def _compare_gradients(ablation: "Ablation", pairs: int) -> None:
    from train.ablation.gradient_report import gradient_lines
    from train.ablation.gradients import compare_gradients
    from train.ablation.report import Report

    if pairs < 2:
        raise ValueError(f"--gradients must be at least 2, not {pairs}")
    arms = {_BASE, *ablation.arms}
    computed = compare_gradients(ablation.study, ablation.start, ablation.out, pairs=pairs)
    alignments = {arm: own for arm, own in computed.items() if arm in arms}
    report = Report(ablation.study, replace(ablation, arms=list(alignments)).finished)
    gains = {arm: both[0] for arm in alignments if arm != _BASE and (both := report.gains(arm, _BASE))}
    for line in gradient_lines(alignments, _BASE, gains):
        print(line)
