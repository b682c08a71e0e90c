"""GenEval's prompts and the conditions on their pictures: lines of `evaluation_metadata.jsonl`. Imports no torch."""

import json
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.detection.errors import GenEvalError
from bench.detection.names import COLOURS, OBJECT_NAMES
from bench.detection.objects import Relation

Tag = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
TAGS: tuple[Tag, ...] = get_args(Tag)


def _known(value: str, known: tuple[str, ...], kind: str) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is not one of GenEval's {len(known)} {kind}")
    return value


ObjectName = Annotated[str, AfterValidator(lambda value: _known(value, OBJECT_NAMES, "objects"))]
Colour = Annotated[str, AfterValidator(lambda value: _known(value, COLOURS, "colours"))]


class _Clause(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: ObjectName = Field(alias="class")
    count: int = Field(ge=1)


class Included(_Clause):
    """At least `count` objects.

    The `count` most confident ones must have the colour, and the relation `position[0]` to those of clause
    `position[1]`.
    """

    colour: Colour | None = Field(default=None, alias="color")
    position: tuple[Relation, int] | None = None


class Excluded(_Clause):
    """Fewer than `count` objects."""


class Metadata(BaseModel):
    """A prompt and the conditions that a picture of it must meet, all of them."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    tag: Tag
    include: tuple[Included, ...] = Field(min_length=1)
    exclude: tuple[Excluded, ...] = ()
    prompt: str

    @model_validator(mode="after")
    def _targets_come_before(self) -> Self:
        for number, clause in enumerate(self.include):
            if clause.position is not None and not 0 <= clause.position[1] < number:
                raise ValueError(f"include.{number}.position.1: must be the number of an earlier clause")
        return self

    def as_json(self) -> str:
        """One line of JSON, as the official evaluation writes it into results."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_unset=True))


def parse_metadata(content: bytes | str, where: str) -> Metadata:
    """Parse one prompt's JSON; `where` names it in errors.

    Raises:
        GenEvalError: it is not JSON, or a field is missing or wrong.
    """
    try:
        return Metadata.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        fault = first["msg"].removeprefix("Value error, ")
        raise GenEvalError(f"{where}: {field + ': ' if field else ''}{fault}") from None


def read_metadata(file: Path) -> tuple[Metadata, ...]:
    """Read prompts from a file with one JSON object per line, such as GenEval's `evaluation_metadata.jsonl`.

    Raises:
        GenEvalError: it cannot be read, has no line, or a line is wrong; the message names file, line and field.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise GenEvalError(f"{file}: {error.strerror}") from None
    if not lines:
        raise GenEvalError(f"{file}: has no prompt")
    return tuple(parse_metadata(line, f"{file}:{number}") for number, line in enumerate(lines, start=1))
