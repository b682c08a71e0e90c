"""Messages between Triton servers and their clients. Imports no torch.

A request is one tensor, `request`: JSON as UINT8 [bytes]. Answers are streamed, and have up to three tensors:

event     JSON as UINT8 [bytes], always
picture   UINT8 [height, width, 3], with previews and finished images, if `format` is "raw"
file      UINT8 [bytes], the same as PNG, JPEG or WebP, if `format` names one of these

Draw      answered by a job's events (`serve.engine.events`), from "queued" to "ended"
Cancel    answered by nothing; ends the answers to the Draw of the same key
Beat      answered by one Pulse
Describe  answered by one Description

A request that cannot be carried out is answered by Triton's error, whose message is a Refusal.
"""

from dataclasses import fields
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from model.params import MAX_SEED, SamplingParams
from serve.backends.model_info import ModelInfo
from serve.engine.events import Ended, Event, Failed, Finished, Preview, Queued, Started
from serve.settings.engine import MAX_IMAGES

_EVENTS: dict[str, type[Event]] = {
    "queued": Queued,
    "started": Started,
    "preview": Preview,
    "finished": Finished,
    "failed": Failed,
    "ended": Ended,
}
_NAMES = {kind: name for name, kind in _EVENTS.items()}
_LONGEST = 4096  # characters, token ids or rows; models have limits of their own
MAX_REQUEST_BYTES = 256 * 1024
Text = Annotated[str, Field(max_length=_LONGEST)]
Key = Annotated[str, Field(min_length=1, max_length=64)]
Ids = Annotated[tuple[int, ...], Field(max_length=_LONGEST)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Draw(_Message):
    """Draw one image for each seed. Sampling settings that are not given are the model's own.

    key: by which it can be cancelled; none other that is drawn may have it.
    prompt, negative_prompt: text, or token ids with the frame included. Without a negative prompt, guidance uses the
        unconditional row.
    preview_rows: after how many rows of codes a preview is wanted.
    seconds: until the job fails; None is never. Not a moment, since clocks of two machines differ.
    format: of the pictures.
    """

    kind: Literal["draw"] = "draw"
    key: Key | None = None
    prompt: Text | Ids
    negative_prompt: Text | Ids | None = None
    seeds: tuple[Annotated[int, Field(ge=0, le=MAX_SEED)], ...] = Field(min_length=1, max_length=MAX_IMAGES)
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    preview_rows: frozenset[Annotated[int, Field(ge=1, le=_LONGEST)]] = Field(default=frozenset(), max_length=_LONGEST)
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    format: Literal["raw", "png", "jpeg", "webp"] = "raw"

    def sampling(self, default: SamplingParams) -> SamplingParams:
        """Sampling settings; raises ValueError if one is out of its range."""
        return default.override(
            guidance_scale=self.guidance_scale, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )


class Cancel(_Message):
    """Stop drawing; nothing if it is not drawn, or over."""

    kind: Literal["cancel"] = "cancel"
    key: Key


class Beat(_Message):
    """Ask for the load."""

    kind: Literal["beat"] = "beat"


class Describe(_Message):
    """Ask for everything that clients need to know of the model."""

    kind: Literal["describe"] = "describe"


Request = TypeAdapter[Draw | Cancel | Beat | Describe](
    Annotated[Draw | Cancel | Beat | Describe, Field(discriminator="kind")]
)


class Pulse(_Message):
    """Load of a model.

    ready: whether the engine draws.
    model: digest of the Description; another one means that the model was loaded anew.
    running, waiting: images of all clients.
    wait_seconds: estimated wait of a job submitted now.
    """

    ready: bool
    model: str = ""
    running: int = 0
    waiting: int = 0
    slots: int = 0
    wait_seconds: float = 0.0


class Description(_Message):
    """A model: facts, limits, and its tokenizer as the `tokenizers` library writes it."""

    info: ModelInfo
    tokenizer: str
    max_prompt_tokens: int
    queue: int

    @cached_property
    def digest(self) -> str:
        """Hash of everything in it."""
        return sha256(self.model_dump_json().encode()).hexdigest()

    @cached_property
    def interface(self) -> str:
        """Hash of what jobs depend on: the tokenizer, the longest prompt, and the size of pictures and codebook."""
        info = self.info
        parts = (self.tokenizer, self.max_prompt_tokens, info.image_size, info.image_tokens, info.codebook_size)
        return sha256(repr(parts).encode()).hexdigest()


class Refusal(_Message):
    """Why a request is refused; `wait_seconds` is until a full queue has room."""

    cause: Literal["invalid", "queue full", "not running"]
    reason: str
    wait_seconds: float = 0.0


def event_as_json(event: Event) -> dict[str, Any]:
    """Plain values of an event, without its picture."""
    plain = {field.name: getattr(event, field.name) for field in fields(event) if field.name != "picture"}
    return {"type": _NAMES[type(event)], **plain}


def event_of_json(plain: dict[str, Any], picture: Image.Image | None) -> Event:
    """Event of `event_as_json`'s values and its picture."""
    kind = _EVENTS[plain.pop("type")]
    lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
    pictures = {} if picture is None else {"picture": picture}
    return kind(**{**plain, **lists, **pictures})
