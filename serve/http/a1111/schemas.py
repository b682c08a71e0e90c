"""Requests and answers of `/sdapi/v1`, with the field names of AUTOMATIC1111's web UI (version 1.10). Imports no torch."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from serve.http.schemas import ClientRequest, Number, Prompt, Whole
from serve.http.sizes import MAX_SIDE, MIN_SIDE

DEFAULT_CFG_SCALE = 7.0  # the web UI's; clients send it unless their user has changed it
_GUIDANCE = (1.0, 20.0)  # what these models take
MAX_SEED = 2**32 - 1
Side = Annotated[Whole, Field(ge=MIN_SIDE, le=MAX_SIDE)]


class Txt2Img(ClientRequest):
    """`POST /sdapi/v1/txt2img`.

    Fields of diffusion models (steps, sampler_name, scheduler, denoising_strength, enable_hr …) have no effect.
    """

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"prompt": "three red circles", "seed": 1, "batch_size": 2}]}
    )

    prompt: Prompt
    negative_prompt: str = ""
    seed: Whole = Field(default=-1, ge=-1, le=MAX_SEED, description="-1: random; picture i has the seed + i")
    batch_size: Whole = Field(default=1, ge=1, description="pictures, together with n_iter at most 10")
    n_iter: Whole = Field(default=1, ge=1)
    cfg_scale: Number = Field(
        default=DEFAULT_CFG_SCALE,
        description="guidance scale, from 1 to 20: what is beyond is moved there; 7, which clients send unless their "
        "user has changed it, means the model's own",
    )
    width: Side | None = Field(default=None, description="default: the model's own")
    height: Side | None = None
    steps: Whole = Field(default=50, description="without effect")
    send_images: StrictBool = True
    model: str | None = Field(default=None, description="of stable-diffusion.cpp's clients")
    override_settings: dict[str, Any] = Field(default={}, description="sd_model_checkpoint names the model")

    @property
    def images(self) -> int:
        """Pictures to draw."""
        return self.batch_size * self.n_iter

    @property
    def guidance_scale(self) -> float | None:
        """Guidance scale; None means the model's own."""
        if self.cfg_scale == DEFAULT_CFG_SCALE:
            return None
        low, high = _GUIDANCE
        return min(high, max(low, self.cfg_scale))

    @property
    def checkpoint(self) -> str | None:
        """Name of the model, if the request has one."""
        named = self.override_settings.get("sd_model_checkpoint") or self.model
        return named if isinstance(named, str) else None


class Txt2ImgAnswer(BaseModel):
    """Pictures as base64 without a prefix, the request as it was understood, and JSON as text about the pictures."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class Options(ClientRequest):
    """`POST /sdapi/v1/options`; other settings than the model have no effect."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"samples_format": "png"}]})

    sd_model_checkpoint: str = Field(default="", description="model of the caller's next requests; empty: as before")


class WebUiError(BaseModel):
    """Body of every error answer."""

    error: str
    detail: str
    body: str
    errors: str


class State(BaseModel):
    """State of the running request; job_count is 0 if none runs."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class Progress(BaseModel):
    """Progress of the caller's running request, 0 to 1, and its latest preview as base64."""

    progress: float = 0.0
    eta_relative: float = Field(default=0.0, description="seconds left, estimated")
    state: State = State()
    current_image: str | None = None
    textinfo: str | None = None


class Checkpoint(BaseModel):
    """A served model."""

    title: str
    model_name: str
    hash: str | None = None
    sha256: str | None = None
    filename: str
    config: str | None = None
