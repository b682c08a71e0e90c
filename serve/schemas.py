"""Requests and answers of the Images API, in OpenAI's shape; imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.params import MAX_SEED

MAX_PROMPT_CHARACTERS = 4000
MAX_IMAGES = 10  # of one request
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)]


class ImageRequest(BaseModel):
    """`POST /v1/images/generations`; what is not given comes from the checkpoint's recipe.

    Beyond OpenAI's fields: seed, negative_prompt, guidance_scale, temperature, top_k, top_p.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"prompt": "three red circles", "seed": 1}]}
    )

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)
    model: str | None = None
    n: int = Field(default=1, ge=1, le=MAX_IMAGES)
    size: str | None = None
    response_format: Literal["b64_json"] = "b64_json"
    user: str | None = None
    seed: Seed | list[Seed] | None = None
    negative_prompt: str | None = Field(default=None, min_length=1, max_length=MAX_PROMPT_CHARACTERS)
    guidance_scale: float | None = Field(default=None, ge=1, le=20, allow_inf_nan=False)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)


class ImageData(BaseModel):
    """One picture: a PNG in base64, and the seed that gives it again."""

    b64_json: str
    seed: int


class InputTokensDetails(BaseModel):
    """Where the input tokens come from."""

    text_tokens: int
    image_tokens: int = 0


class Usage(BaseModel):
    """Tokens read and image codes drawn."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    total_tokens: int


class ImageResponse(BaseModel):
    """The answer: pictures in the order of their seeds."""

    created: int
    model: str
    size: str
    output_format: Literal["png"] = "png"
    data: list[ImageData]
    usage: Usage


class Health(BaseModel):
    """`GET /health`: only what is ready takes requests; anything else comes with status 503."""

    status: Literal["ready", "draining", "dead"]
    model: str


class ErrorDetail(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """What every refused request gets."""

    error: ErrorDetail
