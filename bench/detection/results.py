"""Results of GenEval: one JSON line per picture, in the official schema with two fields of our own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.detection.errors import GenEvalError
from bench.detection.layout import Sample
from bench.detection.scorer import Judged
from pairs.files import write_atomically

_START = b'{"filename":'  # of every line that this module writes


class Result(BaseModel):
    """Verdict on one picture.

    Args:
        filename: of the picture, from where the scorer was started.
        tag: of the prompt.
        prompt: that the picture was drawn from.
        correct: whether the picture meets all conditions.
        reason: one line for each condition that is not met.
        metadata: of the prompt, as JSON.
        details: boxes with scores of the objects that counted, by name, as JSON.
        sha256: of the picture, first 16 hex digits; None in official results.
        scorer: everything that decided the verdict; None in official results.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    filename: str
    tag: str
    prompt: str
    correct: bool
    reason: str
    metadata: str
    details: str
    sha256: str | None = None
    scorer: dict[str, Any] | None = None

    @classmethod
    def of(cls, sample: Sample, judged: Judged, scorer: Mapping[str, Any]) -> Self:
        """Result of a sample that `scorer` judged."""
        return cls(
            filename=str(sample.file),
            tag=sample.metadata.tag,
            prompt=sample.metadata.prompt,
            correct=judged.verdict.correct,
            reason=judged.verdict.reason,
            metadata=sample.metadata.as_json(),
            details=json.dumps({name: [[*one.box, one.score] for one in found] for name, found in judged.kept.items()}),
            sha256=sample.digest,
            scorer=dict(scorer),
        )

    @property
    def place(self) -> str:
        """Path of the picture below the folder that was scored, such as 00012/samples/0003.png."""
        return "/".join(Path(self.filename).parts[-3:])

    def line(self) -> str:
        """The result as a line of a results file."""
        return json.dumps(self.model_dump()) + "\n"


def read_results(file: Path) -> list[Result]:
    """Read a results file, ours or of the official evaluation; a last line that a kill cut short is left out.

    Raises:
        GenEvalError: it cannot be read, or a line is no result; the message names file, line and field.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise GenEvalError(f"{file}: {error.strerror}") from None
    *lines, last = content.split(b"\n")
    results = [_parse(line, f"{file}:{number}") for number, line in enumerate(lines, start=1)]
    if last:
        try:
            results.append(_parse(last, f"{file}:{len(lines) + 1}"))  # pandas may write no newline at the end
        except GenEvalError:
            if not (last.startswith(_START) or _START.startswith(last)):
                raise
    return results


def resume_results(file: Path, samples: Sequence[Sample], scorer: Mapping[str, Any]) -> list[Result]:
    """Read the results that a stopped run left, and drop an incomplete last line so that lines can be appended.

    Args:
        file: need not exist.
        samples: of the folder.
        scorer: that will write the other results.

    Raises:
        GenEvalError: a result is of another scorer, folder, prompt or picture; the file is left as it is.
    """
    if not file.exists():
        return []
    results = read_results(file)
    places = {sample.place: sample for sample in samples}
    for number, result in enumerate(results, start=1):
        if result.scorer != scorer:
            raise GenEvalError(
                f"{file}:{number}: was judged by {_difference(result.scorer, scorer)}; give another file"
            )
        if (sample := places.get(result.place)) is None:
            raise GenEvalError(f"{file}:{number}: the folder has no {result.place}; give another file")
        if result.metadata != sample.metadata.as_json() or result.sha256 != sample.digest:
            raise GenEvalError(f"{file}:{number}: {sample.file} has changed since it was judged; give another file")
    if len({result.place for result in results}) < len(results):
        raise GenEvalError(f"{file}: a picture has two results")
    lines = "".join(result.line() for result in results)
    if file.read_bytes() != lines.encode():
        write_atomically(file, lambda partial: partial.write_text(lines))
    return results


def append_results(file: Path, results: Sequence[Result]) -> None:
    """Append results to a file.

    Raises:
        OSError: it cannot be written; the error names it.
    """
    try:
        with open(file, "a") as lines:
            lines.write("".join(result.line() for result in results))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def _parse(line: bytes, where: str) -> Result:
    try:
        return Result.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise GenEvalError(f"{where}: no result of GenEval: {field + ': ' if field else ''}{first['msg']}") from None


def _difference(theirs: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> str:
    """First setting in which another scorer differs."""
    if theirs is None:
        return "an unknown scorer"
    name = next(name for name in (*ours, *theirs) if theirs.get(name) != ours.get(name))
    return f"another scorer ({name}: {theirs.get(name)}, now {ours.get(name)})"
