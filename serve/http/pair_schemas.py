"""Requests and answers about pairs of prompts, and judgements of pictures; imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.http.schemas import OutputFormat, PictureRequest, Prompt, StreamEvent, Usage

MAX_MODELS = 2
MAX_JUDGED = 40  # pictures of one request
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
    models: list[str] = Field(default=[], max_length=MAX_MODELS, description="the first of the server unless given")


class SpanEntry(BaseModel):
    """Characters start … stop − 1 of a prompt."""

    start: int
    stop: int
    text: str


class PairImage(BaseModel):
    """One picture of a pair, in base64, and the seed that gives it again."""

    b64_json: str
    seed: int


class Difference(BaseModel):
    """The codes in which the two pictures of a seed differ."""

    seed: int
    grid: list[list[Literal[0, 1]]] = Field(description="rows of cells; 1 where the codes differ")
    share: float = Field(description="of the cells, those that differ")
    overlay_b64_json: str = Field(
        description="a PNG to lay over either picture: clear and outlined where they differ, pale elsewhere"
    )


class ModelPairs(BaseModel):
    """What one model drew: the pictures of each prompt by seed, and how the two of each seed differ."""

    model: str
    images: tuple[list[PairImage], list[PairImage]]
    differences: list[Difference]
    usage: Usage


class PairResponse(BaseModel):
    """The answer to a pair."""

    created: int
    prompts: tuple[str, str]
    spans: tuple[list[SpanEntry], list[SpanEntry]] = Field(
        description="the words of each prompt that the other has not"
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
    """How many images are drawn before a model's first of this pair, and after how many seconds it begins."""

    type: Literal["image_pair.queued"] = "image_pair.queued"
    model: str
    prompt_index: PromptIndex
    position: int
    wait_seconds: float


class PairPartialImageEvent(_PairEvent):
    """A picture on its way; `rows` of its codes are drawn."""

    type: Literal["image_pair.partial_image"] = "image_pair.partial_image"
    b64_json: str
    partial_image_index: int
    rows: int
    output_format: OutputFormat


class PairImageEvent(_PairEvent):
    """A finished picture; once both of a seed are there, how they differ."""

    type: Literal["image_pair.image"] = "image_pair.image"
    b64_json: str
    output_format: OutputFormat
    difference: Difference | None = None


class PairCreatedEvent(StreamEvent):
    """The first event: what will be drawn, and which words differ."""

    type: Literal["image_pair.created"] = "image_pair.created"
    created: int
    prompts: tuple[str, str]
    spans: tuple[list[SpanEntry], list[SpanEntry]]
    seeds: list[int]
    models: list[str]


class PairCompletedEvent(StreamEvent):
    """The last event; `usage` has an entry for each model, in the order of `models`."""

    type: Literal["image_pair.completed"] = "image_pair.completed"
    models: list[str]
    usage: list[Usage]


class JudgementRequest(BaseModel):
    """`POST /v1/judgements`: each picture against each prompt."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"prompts": ["a red star"], "images": [[_EXAMPLE]]}]},
    )

    prompts: list[Prompt] = Field(min_length=1, max_length=8)
    images: list[Annotated[list[str], Field(max_length=MAX_JUDGED)]] = Field(
        min_length=1, max_length=8, description="for each prompt its pictures: PNG, JPEG or WebP in base64"
    )


class JudgedImage(BaseModel):
    """One picture: the probability of yes for every prompt; null where it could not be judged."""

    yes: list[float | None]


class JudgementResponse(BaseModel):
    """Pictures by prompt, as they were sent, and the means of each picture's probability for its own prompt.

    `s_a` and `s_g` are the arithmetic and the geometric mean (paper, section 3.2); null if a picture
    could not be judged.
    """

    judge: str
    images: list[list[JudgedImage]]
    s_a: float | None
    s_g: float | None
