"""OpenAI's Images API: pictures of one prompt, as JSON or as a stream."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Request

from serve.backends.generation import Generation
from serve.engine.events import Finished, Preview, Queued
from serve.http.answers import as_base64, metadata, picture_file, usage
from serve.http.cancellation import cancel_on_disconnect
from serve.http.errors import DeadlinePassed, InvalidRequest
from serve.http.generations import counted, finished
from serve.http.guards.keys import Caller
from serve.http.judging import ServedJudge
from serve.http.metrics import Metrics
from serve.http.planning import PictureFormat, job_of, picture_format, seeds_of
from serve.http.schemas import (
    CompletedEvent,
    ImageData,
    ImageRequest,
    ImageResponse,
    PartialImageEvent,
    QueuedEvent,
    StreamEvent,
)
from serve.http.service import ERRORS, STREAM, Service, caller_of
from serve.http.streaming import EventStream

logger = logging.getLogger("focusdiff")


def images_router(service: Service) -> APIRouter:
    """Route `/v1/images/generations`; OpenAI's edits and variations are refused."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/images/generations", response_model=ImageResponse, responses=ERRORS | STREAM)
    async def generations(
        request: ImageRequest, connection: Request, caller: Annotated[Caller, Depends(caller_of(service))]
    ) -> ImageResponse | EventStream:
        """Draw n pictures of a prompt. With `stream`, send previews and complete pictures as server-sent events."""
        if request.background == "transparent":
            raise InvalidRequest(
                "background must be auto or opaque: these models cannot draw transparency", param="background"
            )
        service.ignore(connection, request.unknown)
        judge = _judge_of(request, service)
        backend = service.find(request.model).backend
        seeds = seeds_of(request)
        format = picture_format(request, backend, size=request.size, fit=service.fit, strict=service.strict)
        job = job_of(request, backend, {"prompt": request.prompt}, seeds, deadline=service.deadline)
        (generation,) = service.submit(caller, [(backend, job)])
        shown = {"prompt": request.prompt} if service.log_prompts else {}
        logger.info("%d images by %s", request.drawn, backend.info.name, extra={"caller": caller.name, **shown})

        async def content(event: Finished) -> Content:
            enlarged = await service.enlarge(event.picture, format, job)
            settings = metadata(generation, event.index, request, request.prompt)
            file = await picture_file(enlarged.picture, format, settings, filter=enlarged.filter)
            if not request.wants_url:
                return Content(enlarged.filter, b64_json=as_base64(file))
            name = await service.store.put(file, format.name)
            return Content(enlarged.filter, url=service.link(connection, name))

        if request.stream:
            events = _events(service.metrics, generation, format, content, queue_events=request.queue_events)
            return EventStream([generation], events, seconds=service.stream_seconds)
        async with generation:
            choose = partial(_choose, service.metrics, generation, request, judge)
            return await cancel_on_disconnect(connection, _answer(choose, generation, format, content))

    @router.post("/v1/images/edits", responses=ERRORS, status_code=400)
    @router.post("/v1/images/variations", responses=ERRORS, status_code=400)
    async def refused() -> None:
        """Not supported: these models draw from prompts only."""
        raise InvalidRequest(
            "these models draw pictures from a prompt and cannot change one: use /v1/images/generations",
            code="unsupported",
        )

    return router


class Content(NamedTuple):
    """A picture in an answer, as base64 or as a link, and the filter that enlarged it, if it is enlarged."""

    filter: str
    b64_json: str | None = None
    url: str | None = None


def _judge_of(request: ImageRequest, service: Service) -> ServedJudge | None:
    """The judge that chooses among the pictures, if the request wants it.

    Raises:
        InvalidRequest: best_of is less than n, the request wants a stream, or the server has no judge.
    """
    if request.best_of is None:
        return None
    if service.judge is None:
        raise InvalidRequest(
            "best_of needs a judge: start the server with --judge", param="best_of", code="unsupported"
        )
    if request.best_of < request.n:
        raise InvalidRequest(f"best_of must be at least n ({request.n}), not {request.best_of}", param="best_of")
    if request.stream:
        raise InvalidRequest("best_of cannot be streamed: the best is known when all are drawn", param="best_of")
    return service.judge


async def _choose(
    metrics: Metrics, generation: Generation, request: ImageRequest, judge: ServedJudge | None
) -> list[tuple[Finished, float | None]]:
    """Wait for all pictures and return those of the answer, with their scores.

    Raises:
        ApiError: an image failed, the job ended early, or the judge failed or took too long.
    """
    pictures = await finished(generation, metrics)
    if judge is None:
        return [(picture, None) for picture in pictures]
    try:
        async with asyncio.timeout(generation.job.seconds_left):
            ranked = await judge.rank(pictures, request.prompt)
    except TimeoutError:
        raise DeadlinePassed("the deadline passed while the pictures were judged") from None
    return ranked[: request.n]


async def _answer(
    choose: Callable[[], Awaitable[list[tuple[Finished, float | None]]]],
    generation: Generation,
    format: PictureFormat,
    content: Callable[[Finished], Awaitable[Content]],
) -> ImageResponse:
    """Build the JSON answer."""
    data, filters = [], []
    for event, score in await choose():
        filter, b64_json, url = await content(event)
        filters.append(filter)
        data.append(ImageData(seed=generation.job.seeds[event.index], score=score, b64_json=b64_json, url=url))
    return ImageResponse(
        created=int(time.time()),
        model=generation.info.name,
        size=str(format.size),
        resizing=format.resizing(*filters),
        output_format=format.name,
        data=data,
        usage=usage(generation, generation.job.images),
    )


async def _events(
    metrics: Metrics,
    generation: Generation,
    format: PictureFormat,
    content: Callable[[Finished], Awaitable[Content]],
    *,
    queue_events: bool,
) -> AsyncIterator[StreamEvent]:
    """Yield OpenAI's streaming events, each with the index of its image."""
    partials = [0] * generation.job.images
    async for event in counted(generation, metrics):
        now = int(time.time())
        match event:
            case Queued(ahead, wait_seconds) if queue_events:
                yield QueuedEvent(position=ahead, wait_seconds=round(wait_seconds, 3))
            case Preview(index, rows, image):
                yield PartialImageEvent(
                    size=str(format.size),
                    output_format=format.name,
                    b64_json=as_base64(await picture_file(image, format)),
                    partial_image_index=partials[index],
                    image_index=index,
                    rows=rows,
                    created_at=now,
                )
                partials[index] += 1
            case Finished(index=index):
                filter, b64_json, url = await content(event)
                yield CompletedEvent(
                    size=str(format.size),
                    output_format=format.name,
                    resizing=format.resizing(filter),
                    b64_json=b64_json,
                    url=url,
                    image_index=index,
                    seed=generation.job.seeds[index],
                    model=generation.info.name,
                    created_at=now,
                    usage=usage(generation, 1),
                )
