"""Requests and answers of the Images API, in OpenAI's format. Imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    Strict,
    StrictBool,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from model.params import MAX_SEED, MIN_TEMPERATURE
from serve.settings.engine import MAX_IMAGES

MAX_PROMPT_CHARACTERS = 4000


def _whole(value: Any) -> Any:
    """Accept 4.0 as whole: JSON has a single number type."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole), Strict()]
Number = Annotated[float, Strict()]


def _check_temperature(value: float) -> float:
    if 0 < value < MIN_TEMPERATURE:
        raise ValueError(f"must be 0, or at least {MIN_TEMPERATURE}")
    return value


Temperature = Annotated[Number, AfterValidator(_check_temperature)]
Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED)]
Seeds = Annotated[list[Seed], Field(max_length=MAX_IMAGES)]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
OutputFormat = Literal["png", "jpeg", "webp"]


class ClientRequest(BaseModel):
    """Base class of requests: null means the default of a field, since clients send it for what was left open."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: content for name, content in value.items() if content is not None}
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Declare that null is accepted for every field with a default."""
        schema = handler.resolve_ref_schema(handler(core))
        for name, field in schema["properties"].items():
            if "default" in field and {"type": "null"} not in field.get("anyOf", ()):
                about = {key: field.pop(key) for key in ("default", "title", "description") if key in field}
                schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **about}
        return schema

    @property
    def unknown(self) -> list[str]:
        """Names of the fields that are not of this request, if its class accepts any."""
        return list(self.model_extra or ())


class PictureRequest(ClientRequest):
    """Settings common to all picture requests; sampling settings default to the checkpoint's own."""

    model_config = ConfigDict(extra="forbid")

    n: Whole = Field(default=1, ge=1, le=MAX_IMAGES)
    seed: Seed | Seeds | None = Field(default=None, description="image i uses seed + i; a list has one per image")
    negative_prompt: Prompt | None = Field(default=None, description="prompt to guide away from")
    guidance_scale: Number | None = Field(default=None, ge=1, le=20, allow_inf_nan=False, description="1 is unguided")
    temperature: Temperature | None = Field(default=None, ge=0, le=2, allow_inf_nan=False, description="0 is greedy")
    top_k: Whole | None = Field(default=None, ge=0, description="0 keeps all codes")
    top_p: Number | None = Field(default=None, gt=0, le=1, allow_inf_nan=False, description="1 keeps all codes")
    output_format: OutputFormat = "png"
    output_compression: Whole | None = Field(
        default=None, ge=0, le=100, description="quality of jpeg and webp (default: 100, the best)"
    )
    stream: StrictBool = False
    partial_images: Whole = Field(
        default=0, ge=0, description="previews per image while streaming; fewer than the model's rows of codes"
    )
    queue_events: StrictBool = Field(
        default=False, description="while streaming, send the queue position and estimated wait"
    )

    @property
    def drawn(self) -> int:
        """Pictures to draw of each prompt."""
        return self.n

    @property
    def sampling(self) -> dict[str, float | int | None]:
        """Arguments of `SamplingParams.override`."""
        names = ("guidance_scale", "temperature", "top_k", "top_p")
        return {name: getattr(self, name) for name in names}


class ImageRequest(PictureRequest):
    """`POST /v1/images/generations`.

    Extends OpenAI's fields with seed, negative_prompt, guidance_scale, temperature, top_k, top_p, best_of and
    queue_events, and allows more than three partial_images. quality, style, moderation, user and safety_identifier have no effect.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {"prompt": "three red circles", "seed": 1},
                {"prompt": "a blue star at night", "n": 2, "guidance_scale": 3, "output_format": "webp"},
                {"prompt": "three red circles", "stream": True, "partial_images": 3},
            ]
        },
    )

    prompt: Prompt
    best_of: Whole | None = Field(
        default=None,
        ge=1,
        le=MAX_IMAGES,
        description="draw this many and answer with the n that the server's judge scores highest, best first",
    )
    model: str | None = None
    size: str | None = Field(
        default=None, description='"auto", or WIDTHxHEIGHT with 64 to 2048 pixels a side: the drawn square, resized'
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="default: url if the model is called dall-e-…, as in OpenAI's API, and else b64_json"
    )
    background: Literal["auto", "opaque", "transparent"] = "auto"
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = "auto"
    style: Literal["vivid", "natural"] | None = None
    moderation: Literal["auto", "low"] | None = None
    user: str | None = None
    safety_identifier: str | None = None

    @property
    def drawn(self) -> int:
        return self.n if self.best_of is None else self.best_of

    @property
    def wants_url(self) -> bool:
        """Whether the answer has links instead of files."""
        if self.response_format is None:
            return (self.model or "").startswith("dall-e-")
        return self.response_format == "url"


class ImageData(BaseModel):
    """A picture, as base64 or as a link, and the seed that reproduces it.

    score: the judge's, 0 to 1, with best_of; null if the picture could not be judged.
    """

    b64_json: str | None = None
    url: str | None = None
    seed: int
    score: float | None = None


class Resizing(BaseModel):
    """Resizing of pictures to the size of the answer.

    drawn: size of the model's picture, as WIDTHxHEIGHT.
    filter: how it was enlarged or reduced.
    fit: "pad" or "crop" if the size is no square.
    """

    drawn: str
    filter: str
    fit: Literal["pad", "crop", "refuse"] | None = None


class InputTokensDetails(BaseModel):
    """Input tokens by kind."""

    text_tokens: int
    image_tokens: int = 0


class Usage(BaseModel):
    """Prompt tokens read and image codes drawn."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, *, read: int, drawn: int) -> "Usage":
        """Build from the numbers of prompt tokens and image codes."""
        details = InputTokensDetails(text_tokens=read)
        return cls(input_tokens=read, input_tokens_details=details, output_tokens=drawn, total_tokens=read + drawn)


class StreamEvent(BaseModel):
    """Base class of streamed events; `type` is the event's name."""

    type: str


class _PictureEvent(StreamEvent):
    """OpenAI's fields of a streamed picture, without its content."""

    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat


class ImageResponse(BaseModel):
    """Answer of `POST /v1/images/generations`: pictures in the order of their seeds; with best_of, best first."""

    created: int
    model: str
    size: str
    resizing: Resizing | None = None
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    data: list[ImageData]
    usage: Usage


class QueuedEvent(StreamEvent):
    """Queue position: images ahead of the request's first, and estimated seconds until it starts."""

    type: Literal["image_generation.queued"] = "image_generation.queued"
    position: int
    wait_seconds: float


class PartialImageEvent(_PictureEvent):
    """A preview of a picture after `rows` rows of codes."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    b64_json: str
    partial_image_index: int
    image_index: int
    rows: int
    created_at: int


class CompletedEvent(_PictureEvent):
    """A finished picture."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    resizing: Resizing | None = None
    b64_json: str | None = None
    url: str | None = None
    image_index: int
    seed: int
    model: str
    created_at: int
    usage: Usage


class ModelEntry(BaseModel):
    """A model in `GET /v1/models`: image size, codes per image and sampling settings."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "focusdiff"
    image_size: int
    image_tokens: int
    sampling: dict[str, Any]
    aliases: list[str] = []


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Health(BaseModel):
    """State of the server; `/health` and `/health/ready` answer 503 unless it is ready."""

    status: Literal["ready", "loading", "unreachable", "draining", "dead"]
    models: list[str]


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Body of every error answer."""

    error: ErrorDetail
