"""The HTTP application: OpenAI's Images API over a backend."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException

from model.errors import PromptError
from model.params import resolve_seeds
from serve.backend import Backend
from serve.errors import (
    ApiError,
    DeadlinePassed,
    GenerationFailed,
    InvalidRequest,
    TooBusy,
    Unavailable,
    UnknownModel,
)
from serve.events import Failed, Finished
from serve.image import png_bytes
from serve.request import Job
from serve.schemas import ErrorResponse, Health, ImageData, ImageRequest, ImageResponse, InputTokensDetails, Usage
from serve.worker import NotRunning, QueueFull

T = TypeVar("T")
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 404, 429, 500, 503, 504)
}


def create_app(backend: Backend) -> FastAPI:
    """The application; it closes the backend when the server stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(backend.close)

    app = FastAPI(
        title="FocusDiff", summary="Autoregressive text-to-image models over OpenAI's Images API.", lifespan=lifespan
    )

    @app.get("/health", responses={503: {"model": Health}})
    async def health(answer: Response) -> Health:
        """Whether the server takes requests, and for which model."""
        answer.status_code = 200 if backend.state == "ready" else 503
        return Health(status=backend.state, model=backend.info.name)

    @app.post("/v1/images/generations", responses=_ERRORS)
    async def generations(request: ImageRequest, connection: Request) -> ImageResponse:
        """Make n pictures of a prompt."""
        job = plan(request, backend)
        images = await unless_gone(connection, draw(backend, job))
        # writing a PNG takes a while, and others are being served
        return await asyncio.to_thread(answer, request, job, images, backend)

    @app.exception_handler(ClientGone)
    async def nobody_listens(_: Request, __: ClientGone) -> Response:
        return Response(status_code=499)

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, headers=error.headers)

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


async def draw(backend: Backend, job: Job) -> list[Image.Image]:
    """The pictures of a job, in the order of its seeds; cancelled, it gives its slots back.

    Raises:
        ApiError: the job was not accepted, or one of its pictures will not come.
    """
    try:
        generation = backend.submit(job)
    except QueueFull as full:
        raise TooBusy(f"{full}; try again later", retry_after=full.wait_seconds) from None
    except NotRunning as error:
        raise Unavailable(str(error)) from None
    images = {}
    async with generation:
        async for event in generation:
            if isinstance(event, Failed):
                raise failure(event, job)
            if isinstance(event, Finished):
                images[event.index] = event.picture
    return [images[index] for index in range(len(job.seeds))]


def failure(event: Failed, job: Job) -> ApiError:
    """What a client is told of a picture that will not come."""
    match event.cause:
        case "engine died":
            return Unavailable(event.reason)
        case "deadline":
            return DeadlinePassed(event.reason)
        case "not finite":
            assert event.index is not None
            return GenerationFailed(f"image {event.index} (seed {job.seeds[event.index]}): {event.reason}")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(connection: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives; it is cancelled when the client disconnects.

    Raises:
        ClientGone: it did.
    """

    async def disconnected() -> None:
        while (await connection.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def answer(request: ImageRequest, job: Job, images: Sequence[Image.Image], backend: Backend) -> ImageResponse:
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
