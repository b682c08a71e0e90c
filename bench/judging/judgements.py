"""The judgements of one judge, kept on disk picture by picture."""

import re
from collections.abc import Mapping
from pathlib import Path

from bench.json_lines import JsonLines, OtherIdentity
from pairs.judges.opening import OpenedJudge

_FEW = 100  # scores that may be equal by chance


class JudgementError(ValueError):
    """Judgements cannot be used; the message names their file."""


class Judgements:
    """Scores by picture file; failed judgements are not kept; the next run asks again.

    Args:
        file: JSON lines: the judge's identity, then one score a line; made if missing.
        judge: gives the scores.

    Raises:
        JudgementError: the file is of another judge.
        ValueError: it is damaged.
    """

    def __init__(self, file: Path, judge: OpenedJudge) -> None:
        try:
            self._lines = JsonLines(file, judge.identity)
        except OtherIdentity:
            raise JudgementError(
                f"{file} is of another judge, or of other weights or questions; move it away"
            ) from None
        self.scores: dict[str, float] = {}
        for row in self._lines.rows:
            if not isinstance(row.get("file"), str) or not isinstance(row.get("score"), float | int):
                raise JudgementError(f"{file}: a row has no file or no score: {row}")
            self.scores[row["file"]] = float(row["score"])

    def add(self, scores: Mapping[str, float]) -> None:
        """Keep scores of more pictures, by file."""
        self._lines.append({"file": name, "score": score} for name, score in scores.items())
        self.scores |= scores

    def check(self) -> None:
        """Check that the judge tells pictures apart.

        Raises:
            JudgementError: all scores are equal, and too many for chance.
        """
        if len(self.scores) >= _FEW and len(set(self.scores.values())) == 1:
            value = next(iter(self.scores.values()))
            raise JudgementError(
                f"{self._lines.file}: all {len(self.scores)} scores are {value:g}, as of a broken judge; when it is "
                "repaired, move this file and answers.sqlite away, and run again"
            )


def judgements_file(folder: Path, judge: OpenedJudge) -> Path:
    """File of a judge's scores in the folder of a run."""
    return folder / "judgements" / f"{slug(judge.name)}.jsonl"


def slug(name: str) -> str:
    """A name as a file's: characters other than letters, digits, dots, dashes and underscores become dashes."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "judge"
