"""Messages between a server and an engine's process. Imports no torch.

server → engine   LoadModel, then Submit, Cancel, Close
engine → server   Loaded or an exception, then Report …; Died if the loop ended too early
"""

from dataclasses import dataclass

from tokenizers import Tokenizer

from model.quantization import Quantization
from serve.backends.model_info import ModelInfo
from serve.engine.events import Event
from serve.engine.job import Job
from serve.settings.model_source import ModelSource


@dataclass(frozen=True)
class LoadModel:
    """Load a model. `room` bounds its memory in bytes; None means all the device has."""

    source: ModelSource
    device: str
    dtype: str
    quantization: Quantization | None
    jacobi: bool
    slots: int
    room: int | None
    log_level: str
    log_format: str


@dataclass(frozen=True)
class Loaded:
    """The model is ready; weights, tables and KV cache take `held_bytes`."""

    info: ModelInfo
    tokenizer: Tokenizer | None
    max_prompt_tokens: int
    slots: int
    held_bytes: int


@dataclass(frozen=True)
class Submit:
    """Draw a job; reports name it by `number`."""

    number: int
    job: Job


@dataclass(frozen=True)
class Cancel:
    """Drop a job; its slots are free at the next step."""

    number: int


@dataclass(frozen=True)
class Close:
    """Finish the submitted jobs, then end."""


Command = Submit | Cancel | Close


@dataclass(frozen=True)
class Report:
    """Events by job number, in order, and the estimated wait of a job submitted now."""

    events: tuple[tuple[int, Event], ...]
    wait_seconds: float


@dataclass(frozen=True)
class Died:
    """The loop ended although it was not told to; `reason` is for people."""

    reason: str
