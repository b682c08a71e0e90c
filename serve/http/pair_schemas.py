"""Requests and answers of pairs and judgements. Imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.http.schemas import OutputFormat, PictureRequest, Prompt, StreamEvent, Usage

MAX_MODELS = 2
MAX_JUDGED = 40  # pictures per request
_EXAMPLE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel
)
PromptIndex = Annotated[int, Field(ge=0, le=1)]


class PairRequest(PictureRequest):
    """`POST /v1/images/pairs`: n pictures of each of two prompts, from one model or two, with the same seeds."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompts": ["three red circles", "four red circles"], "n": 2, "seed": 1},
                {"prompts": ["a blue star", "a green star"], "models": ["tiny-base", "tiny"], "seed": 1},
            ]
        }
    )

    prompts: tuple[Prompt, Prompt]
    models: list[str] = Field(default=[], max_length=MAX_MODELS, description="default: the server's first model")


class SpanEntry(BaseModel):
    """Characters start … stop − 1 of a prompt."""

    start: int
    stop: int
    text: str


class PairImage(BaseModel):
    """A picture of a pair as base64, and the seed that reproduces it."""

    b64_json: str
    seed: int


class Difference(BaseModel):
    """Codes that differ between the two pictures of a seed."""

    seed: int
    grid: list[list[Literal[0, 1]]] = Field(description="rows of cells; 1 where the codes differ")
    share: float = Field(description="share of the cells that differ, 0 to 1")
    overlay_b64_json: str = Field(
        description="PNG to lay over either picture: clear and outlined where codes differ, pale elsewhere"
    )


class ModelPairs(BaseModel):
    """One model's pictures of each prompt, in the order of the seeds, and the difference of each seed."""

    model: str
    images: tuple[list[PairImage], list[PairImage]]
    differences: list[Difference]
    usage: Usage


class PairResponse(BaseModel):
    """Answer of `POST /v1/images/pairs`."""

    created: int
    prompts: tuple[str, str]
    spans: tuple[list[SpanEntry], list[SpanEntry]] = Field(
        description="words of each prompt that the other does not have"
    )
    seeds: list[int]
    size: str
    output_format: OutputFormat
    models: list[ModelPairs]


class _PairEvent(StreamEvent):
    model: str
    prompt_index: PromptIndex
    image_index: int
    seed: int


class PairQueuedEvent(StreamEvent):
    """Queue position of one prompt on one model: images ahead, and estimated seconds until it starts."""

    type: Literal["image_pair.queued"] = "image_pair.queued"
    model: str
    prompt_index: PromptIndex
    position: int
    wait_seconds: float


class PairPartialImageEvent(_PairEvent):
    """A preview of a picture after `rows` rows of codes."""

    type: Literal["image_pair.partial_image"] = "image_pair.partial_image"
    b64_json: str
    partial_image_index: int
    rows: int
    output_format: OutputFormat


class PairImageEvent(_PairEvent):
    """A finished picture; the second of a seed also has their difference."""

    type: Literal["image_pair.image"] = "image_pair.image"
    b64_json: str
    output_format: OutputFormat
    difference: Difference | None = None


class PairCreatedEvent(StreamEvent):
    """The first event: models, seeds and the words that differ."""

    type: Literal["image_pair.created"] = "image_pair.created"
    created: int
    prompts: tuple[str, str]
    spans: tuple[list[SpanEntry], list[SpanEntry]]
    seeds: list[int]
    models: list[str]


class PairCompletedEvent(StreamEvent):
    """The last event; `usage` has one entry per model, in the order of `models`."""

    type: Literal["image_pair.completed"] = "image_pair.completed"
    models: list[str]
    usage: list[Usage]


class JudgementRequest(BaseModel):
    """`POST /v1/judgements`: every picture is judged against every prompt."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"prompts": ["a red star"], "images": [[_EXAMPLE]]}]},
    )

    prompts: list[Prompt] = Field(min_length=1, max_length=8)
    images: list[Annotated[list[str], Field(max_length=MAX_JUDGED)]] = Field(
        min_length=1, max_length=8, description="pictures of each prompt: PNG, JPEG or WebP as base64"
    )


class JudgedImage(BaseModel):
    """Probability of yes for a picture and every prompt; null if it could not be judged."""

    yes: list[float | None]


class JudgementResponse(BaseModel):
    """Answer of `POST /v1/judgements`, in the order of the request's pictures.

    `s_a` and `s_g` are the arithmetic and geometric mean (paper, section 3.2) of each picture's probability for
    its own prompt; null if one of these could not be judged.
    """

    judge: str
    images: list[list[JudgedImage]]
    s_a: float | None
    s_g: float | None
