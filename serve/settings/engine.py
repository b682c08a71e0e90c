"""Settings of models and of the engines that draw them: common to `focusdiff-serve` and `focusdiff-triton`."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from model.quantization import Quantization
from serve.settings.model_source import ModelSource

MAX_IMAGES = 10  # per request; the queue must hold two such requests


class EngineSettings(BaseModel):
    """Which models are drawn, on which device, and how many images at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Annotated[tuple[ModelSource, ...], NoDecode] = Field(
        default=(ModelSource(name="tiny", source="tiny"),),
        min_length=1,
        description="model to serve: folder, hub id or shipped name, or NAME=SOURCE (default: tiny); repeat for "
        "several models; requests that name no model use the first",
    )
    weights: Path | None = Field(
        default=None, description=".pt state dict whose tensors replace the model's (FocusDiff's format)"
    )
    tokenizer: str | None = Field(default=None, description="folder or hub id to take the tokenizer from")
    revision: str | None = Field(default=None, description="branch, tag or commit of the hub repository")
    device: str = Field(default="auto", description="auto, cpu, cuda or mps")
    dtype: str = Field(default="auto", description="auto, source (the files' own), float32, bfloat16 or float16")
    quantization: Quantization | None = Field(
        default=None,
        description="round the decoder's weights: int8 on a CPU; int8, int4 or fp8 on an NVIDIA GPU. Less memory, and sooner "
        "where reading weights takes the time; pictures change a little (docs/performance.md)",
    )
    jacobi: bool = Field(
        default=True,
        description="guess codes ahead and check several in one step, where that is faster; pictures are the same "
        "(docs/engine.md)",
    )
    memory_gib: float | None = Field(
        default=None, gt=0, description="memory limit in GiB for all models together (default: what the device has)"
    )
    slots: int = Field(default=16, ge=1, description="guided images drawn at once by each model")
    queue: int = Field(default=256, ge=2 * MAX_IMAGES, description="images that may wait for each model")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info")
    log_format: Literal["text", "json"] = Field(default="text")

    @field_validator("models", mode="before")
    @classmethod
    def _parse_models(cls, value: Any) -> Any:
        given = split(value)
        if not isinstance(given, list):
            return given
        return [ModelSource.parse(one) if isinstance(one, str) else one for one in given]

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [model.name for model in self.models]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two models are called {min(twice)!r}: give one of them another name, as NAME=SOURCE")
        if self.weights is not None and len(names) > 1:
            raise ValueError("weights suits one model; with several give each its own in a config file")
        return self

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """Models, with the common weights, tokenizer and revision filled in."""
        common = {"weights": self.weights, "tokenizer": self.tokenizer, "revision": self.revision}
        return tuple(
            model.model_copy(update={name: getattr(model, name) or value for name, value in common.items()})
            for model in self.models
        )


def split(value: Any) -> Any:
    """Split comma-separated values, alone or in a list; other values are returned as they are."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        return value
    parts = [part for one in given for part in (one.split(",") if isinstance(one, str) else [one])]
    return [part.strip() if isinstance(part, str) else part for part in parts if part != ""]
