"""PairComp's numbers as text."""

from collections.abc import Iterator

from bench.report.paircomp_run import PairCompRun, differences
from bench.report.paircomp_scores import Estimate, PairCompScores
from bench.report.published import SOURCE, has_published_categories, published


def lines(run: PairCompRun) -> Iterator[str]:
    """The tables of all judges, their agreement, the published scores and the warnings."""
    for judge in run.judges:
        yield f"{run.name}, judge {judge.name}; in percent, with 95 % intervals over cases"
        yield from _table(judge.table)
    for one in run.agreements:
        yield f"Kendall's tau of {one.first} and {one.second}, over pictures"
        for category, tau in one.tau.items():
            yield f"{category:24s}{'not defined' if tau is None else _tau(tau)}"
    if has_published_categories({case.category for case in run.cases}):
        yield f"published: {SOURCE}"
        for model, scores in published().items():
            s_a, s_g = scores["Average"]
            yield f"{model:24s}{'':8s}{100 * s_a:<20.1f}{100 * s_g:<20.1f}"
    for warning in run.warnings:
        yield f"warning: {warning}"


def difference_lines(run: PairCompRun, other: PairCompRun) -> Iterator[str]:
    """Tables of one run minus another, by each judge of both."""
    for judge, table in differences(run, other).items():
        yield f"{run.name} minus {other.name}, case by case, judge {judge}"
        yield from _table(table)


def _table(scores: PairCompScores) -> Iterator[str]:
    yield f"{'':24s}{'cases':8s}{'s_a':20s}{'s_g':20s}all four pass"
    for group in scores.groups:
        cells = "".join(f"{group.measures[name]!s:20s}" for name in ("s_a", "s_g", "passed"))
        yield f"{group.name:24s}{group.cases:<8d}{cells}".rstrip()


def _tau(tau: Estimate) -> str:
    return f"{tau.value:.2f} ({tau.low:.2f} to {tau.high:.2f})"
