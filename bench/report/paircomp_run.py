"""A run of PairComp as its folder holds it: cases, pictures, and the scores of every judge."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from bench.benchmarks.benchmark import BenchmarkError
from bench.benchmarks.opening import benchmark_of
from bench.benchmarks.paircomp import PairComp
from bench.judging.judgements import judgements_file, read_identity
from bench.judging.score_file import read_scores
from bench.pictures.errors import RunError
from bench.pictures.run_folder import read_manifest
from bench.report.agreement import agreement
from bench.report.paircomp_scores import Estimate, PairCompScores, paircomp_scores, paired_difference
from pairs.paircomp import Case


@dataclass(frozen=True)
class Judged:
    """Scores by one judge.

    name: of its file in `scores/`.
    scores: of each complete case's pictures, by number.
    identity: of the judge; {} for a score file from elsewhere.
    """

    name: str
    scores: Mapping[int, tuple[float, ...]]
    table: PairCompScores
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau of two judges by category (`bench.report.agreement`)."""

    first: str
    second: str
    tau: Mapping[str, Estimate | None]


@dataclass(frozen=True)
class PairCompRun:
    """A run that has been judged at least once."""

    folder: Path
    manifest: Mapping[str, Any]
    cases: tuple[Case, ...]
    judges: tuple[Judged, ...]

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def name(self) -> str:
        """Name of the model, or of the generator if it has none."""
        generator = self.manifest["settings"]["generator"]
        return str(generator.get("model") or generator["generator"])

    @cached_property
    def agreements(self) -> tuple[Agreement, ...]:
        """Agreement of each pair of judges."""
        return tuple(
            Agreement(first.name, second.name, agreement(self.cases, first.scores, second.scores))
            for first, second in combinations(self.judges, 2)
        )

    @property
    def warnings(self) -> list[str]:
        """Notes for readers of the scores: cases left out, and a judge that also gave the rewards."""
        found = []
        generator = self.manifest["settings"]["generator"]
        trained = generator.get("reward judge")
        for judge in self.judges:
            lost = [case.number for case in self.cases if case.number not in judge.scores]
            if lost:
                shown = ", ".join(map(str, lost[:10])) + (" …" if len(lost) > 10 else "")
                found.append(f"{judge.name}: {len(lost)} cases lack a judgement and are left out: {shown}")
            if _same_judge(generator.get("selected by", {}), judge.identity):
                found.append(f"{judge.name} also chose these pictures, the best of {generator['best of']} each")
            if trained and _same_judge(trained, judge.identity):
                found.append(f"{judge.name} gave the rewards that this checkpoint was trained with")
        return found


def read_run(folder: Path) -> PairCompRun:
    """Read a run.

    Raises:
        RunError: the folder is not of a run of PairComp.
        BenchmarkError: a score file is damaged or of other cases, or there is none.
    """
    manifest = read_manifest(folder)
    benchmark = benchmark_of(folder)
    if not isinstance(benchmark, PairComp):
        raise RunError(f"{folder} is a run of {benchmark.name}, not of {PairComp.name}")
    cases = benchmark.cases
    files = sorted((folder / "scores").glob("*.json"))
    if not files:
        raise BenchmarkError(f"{folder / 'scores'} has no scores: no judge has judged this run")
    return PairCompRun(folder, manifest, cases, tuple(_judged(file, folder, cases) for file in files))


def differences(run: PairCompRun, other: PairCompRun) -> dict[str, PairCompScores]:
    """Scores of `run` minus those of `other`, by each judge that has judged both.

    Raises:
        RunError: the runs have different cases.
    """
    if [case.prompts for case in run.cases] != [case.prompts for case in other.cases]:
        raise RunError(f"{run.folder} and {other.folder} are runs of different cases")
    theirs = {judge.name: judge.scores for judge in other.judges}
    return {
        judge.name: paired_difference(run.cases, theirs[judge.name], judge.scores)
        for judge in run.judges
        if judge.name in theirs
    }


def _judged(file: Path, folder: Path, cases: tuple[Case, ...]) -> Judged:
    scores = read_scores(file, cases)
    try:
        table = paircomp_scores(cases, scores)
    except ValueError as error:
        raise BenchmarkError(f"{file}: {error}") from None
    return Judged(file.stem, scores, table, read_identity(judgements_file(folder, file.stem)))


def _same_judge(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two identities are of one judge, whatever questions it was asked."""
    names = ("judge", "judge model", "judge weights")
    return bool(first) and all(first.get(name) == second.get(name) for name in names)
