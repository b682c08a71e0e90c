"""Which model is served, and under which name."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class ModelSource(BaseModel):
    """A model to serve: its public name and its source.

    `source` is a folder, a hub id or the name of a shipped checkpoint; `weights` is the `overlay` of
    `model.checkpoints.load.load`, which documents the other fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=200)
    source: str = Field(min_length=1)
    weights: Path | None = None
    tokenizer: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelSource":
        """Parse `NAME=SOURCE`, or a source alone: its name is the folder's name, the hub id or the shipped name."""
        name, equals, source = text.partition("=")
        if not equals:
            is_path = text.startswith((".", "/", "~")) or Path(text).is_dir()
            name, source = (Path(text).resolve().name if is_path else text), text
        return cls(name=name, source=source)
