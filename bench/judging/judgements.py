"""The judgements of one judge, kept on disk picture by picture."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.json_lines import JsonLines, OtherIdentity, read_json_lines
from pairs.judges.opening import OpenedJudge

_FOLDER = "judgements"  # in the folder of a run
_FEW = 100  # scores that may be equal by chance


class JudgementError(ValueError):
    """Judgements cannot be used; the message names their file."""


class Score(BaseModel):
    """Score of a picture.

    file: its name in the folder of pictures.
    sha256: of the file that was judged, in hex.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    file: str
    sha256: str
    score: Annotated[float, Field(ge=0, le=1)]


class Judgements:
    """Scores of pictures; failed judgements are not kept; the next run asks again.

    A score belongs to the content of a file: a picture that has been replaced is judged anew.

    Args:
        file: JSON lines: the judge's identity, then one score a line; made if missing.
        judge: gives the scores.

    Raises:
        JudgementError: the file is of another judge, or a line is no score.
        ValueError: it is damaged.
    """

    def __init__(self, file: Path, judge: OpenedJudge) -> None:
        try:
            self._lines = JsonLines(file, judge.identity)
        except OtherIdentity:
            raise JudgementError(
                f"{file} is of another judge, or of other weights or questions; move it away"
            ) from None
        self.scores: dict[str, float] = {}  # by file, of the pictures as they are now
        self._known: dict[tuple[str, str], float] = {}
        for number, row in enumerate(self._lines.rows, start=2):
            try:
                one = Score.model_validate(row)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"]))
                raise JudgementError(f"{file}, line {number}: {place}: {first['msg']}; move the file away") from None
            self._known[one.file, one.sha256] = one.score

    def recall(self, file: str, sha256: str) -> bool:
        """Whether a picture has a score already, which then counts; False if its content has changed."""
        score = self._known.get((file, sha256))
        if score is not None:
            self.scores[file] = score
        return score is not None

    def add(self, scores: Sequence[Score]) -> None:
        """Keep scores of more pictures."""
        self._lines.append(one.model_dump() for one in scores)
        self.scores |= {one.file: one.score for one in scores}

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


def judgements_file(folder: Path, name: str) -> Path:
    """File of the scores of a judge of this name, in the folder of a run."""
    return folder / _FOLDER / f"{slug(name)}.jsonl"


def answers_file(folder: Path) -> Path:
    """File of the answers of vision-language models, in the folder of a run."""
    return folder / _FOLDER / "answers.sqlite"


def read_identity(file: Path) -> dict[str, Any]:
    """Identity of the judge that a file of scores belongs to; {} without a file.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    return read_json_lines(file)[0] if file.exists() else {}


def slug(name: str) -> str:
    """A name as a file's: characters other than letters, digits, dots, dashes and underscores become dashes."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "judge"
