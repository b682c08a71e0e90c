"""The HTTP application: OpenAI's Images API over a backend."""

import base64
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from model.errors import PromptError
from model.params import resolve_seeds
from serve.backend import Backend, Job
from serve.errors import ApiError, GenerationFailed, InvalidRequest, UnknownModel
from serve.image import png_bytes
from serve.schemas import ErrorResponse, Health, ImageData, ImageRequest, ImageResponse, InputTokensDetails, Usage

logger = logging.getLogger("focusdiff")
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorResponse} for status in (400, 404, 500)}


def create_app(backend: Backend) -> FastAPI:
    """The application; it closes the backend when the server stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        backend.close()

    app = FastAPI(
        title="FocusDiff", summary="Autoregressive text-to-image models over OpenAI's Images API.", lifespan=lifespan
    )

    @app.get("/health")
    async def health() -> Health:
        """Whether the server is up, and with which model."""
        return Health(model=backend.info.name)

    @app.post("/v1/images/generations", responses=_ERRORS)
    async def generations(request: ImageRequest) -> ImageResponse:
        """Make n pictures of a prompt."""
        job = plan(request, backend)
        try:
            images = await backend.generate(job)
        except Exception as error:
            logger.exception("generation failed")
            raise GenerationFailed(f"generation failed: {type(error).__name__}") from error
        return answer(request, job, images, backend)

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        # past the field's name stand places in lists and members of unions
        param = next((part for part in first["loc"] if isinstance(part, str) and part != "body"), None)
        refusal = InvalidRequest(f"{param or 'body'}: {first['msg']}", param=param)
        return JSONResponse(refusal.body(), refusal.status)

    @app.exception_handler(HTTPException)
    async def no_such_route(_: Request, error: HTTPException) -> JSONResponse:
        refusal = InvalidRequest(str(error.detail))
        return JSONResponse(refusal.body(), error.status_code, headers=error.headers)

    return app


def plan(request: ImageRequest, backend: Backend) -> Job:
    """The job of a request, every default filled in.

    Raises:
        ApiError: a field does not fit this server's model.
    """
    info = backend.info
    if request.model not in (None, info.name):
        known = info.name
        raise UnknownModel(f"no model {request.model!r} here; known: {known}", param="model", code="model_not_found")
    size = f"{info.image_size}x{info.image_size}"
    if request.size not in (None, "auto", size):
        raise InvalidRequest(f"size must be auto or {size}: {info.name} draws no other", param="size")
    try:
        seeds = resolve_seeds(request.seed, request.n)
    except ValueError as error:
        raise InvalidRequest(str(error), param="seed") from None
    params = info.recipe.override(
        guidance_scale=request.guidance_scale, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p
    )
    prompt = _encode(backend, request.prompt, "prompt")
    negative = None if request.negative_prompt is None else _encode(backend, request.negative_prompt, "negative_prompt")
    return Job(prompt, negative, tuple(seeds), params)


def _encode(backend: Backend, text: str, name: str) -> list[int]:
    try:
        return backend.encode(text, name=name)
    except PromptError as error:
        raise InvalidRequest(str(error), param=name) from None


def answer(request: ImageRequest, job: Job, images: list[Any], backend: Backend) -> ImageResponse:
    """The response of a finished job; each PNG carries the prompt and the settings that give it again."""
    info = backend.info
    negative = {} if request.negative_prompt is None else {"negative_prompt": request.negative_prompt}
    data = []
    for seed, image in zip(job.seeds, images, strict=True):
        metadata = {"model": info.name, "prompt": request.prompt, "seed": seed, **job.params.as_dict(), **negative}
        data.append(ImageData(b64_json=base64.b64encode(png_bytes(image, metadata)).decode(), seed=seed))
    read, drawn = len(job.prompt), info.image_tokens * len(images)
    usage = Usage(
        input_tokens=read,
        input_tokens_details=InputTokensDetails(text_tokens=read),
        output_tokens=drawn,
        total_tokens=read + drawn,
    )
    size = f"{info.image_size}x{info.image_size}"
    return ImageResponse(created=int(time.time()), model=info.name, size=size, data=data, usage=usage)
