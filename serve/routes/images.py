"""OpenAI's Images API: pictures of one prompt, whole or as they come."""

import logging
import time
from collections.abc import AsyncIterator
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Request

from serve.answers import as_base64, finished_picture, finished_pictures, picture, usage
from serve.auth import Caller
from serve.connection import unless_gone
from serve.drawing import Drawing, begin
from serve.errors import InvalidRequest
from serve.events import Finished, Preview, Queued
from serve.planning import Look, job_of, look_of, seeds_of
from serve.schemas import (
    CompletedEvent,
    ImageData,
    ImageRequest,
    ImageResponse,
    PartialImageEvent,
    QueuedEvent,
    StreamEvent,
)
from serve.service import ERRORS, STREAM, Service, caller_of
from serve.streaming import EventStream

logger = logging.getLogger("focusdiff")


def images_router(service: Service) -> APIRouter:
    """`/v1/images/generations`, and the refusals of what these models cannot do."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/images/generations", response_model=ImageResponse, responses=ERRORS | STREAM)
    async def generations(
        request: ImageRequest, connection: Request, caller: Annotated[Caller, Depends(caller_of(service))]
    ) -> ImageResponse | EventStream:
        """Make n pictures of a prompt. With `stream`, server-sent events: pictures on the way, then whole ones."""
        order = Order(service, request, connection, caller)
        if request.stream:
            return EventStream([order.drawing], order.events(), seconds=service.stream_seconds)
        async with order.drawing.generation:
            return await unless_gone(connection, order.answer())

    @router.post("/v1/images/edits", responses=ERRORS, status_code=400)
    @router.post("/v1/images/variations", responses=ERRORS, status_code=400)
    async def refused() -> None:
        """These models draw from words alone."""
        raise InvalidRequest(
            "these models draw pictures from a prompt and cannot change one: use /v1/images/generations",
            code="unsupported",
        )

    return router


class Content(NamedTuple):
    """A picture as it is answered: in base64 or as a link."""

    b64_json: str | None = None
    url: str | None = None


class Order:
    """One accepted request and how it is answered."""

    def __init__(self, service: Service, request: ImageRequest, connection: Request, caller: Caller) -> None:
        if request.background == "transparent":
            raise InvalidRequest(
                "background must be auto or opaque: these models know no transparency", param="background"
            )
        backend = service.models.find(request.model)
        seeds = seeds_of(request)
        self._service = service
        self._request = request
        self._connection = connection
        self._look: Look = look_of(request, backend, size=request.size, upscale=service.upscale)
        job = job_of(request, backend, {"prompt": request.prompt}, seeds, deadline=service.deadline)
        service.limiter.check(caller, request.n)
        self.drawing: Drawing = begin(
            backend, job, service.metrics, prompt=request.prompt, negative_prompt=request.negative_prompt
        )
        service.limiter.spend(caller, request.n)
        shown = {"prompt": request.prompt} if service.log_prompts else {}
        logger.info("%d images by %s", request.n, backend.info.name, extra={"caller": caller.name, **shown})

    async def answer(self) -> ImageResponse:
        """All pictures, once they are there."""
        finished = await self.drawing.finished()
        files = await finished_pictures(self.drawing, finished, self._look)
        data = []
        for seed, file in zip(self.drawing.job.seeds, files, strict=True):
            content = await self._content(file)
            data.append(ImageData(seed=seed, b64_json=content.b64_json, url=content.url))
        return ImageResponse(
            created=int(time.time()),
            model=self.drawing.info.name,
            size=self._look.size_text,
            output_format=self._look.format,
            data=data,
            usage=usage(self.drawing, len(files)),
        )

    async def events(self) -> AsyncIterator[StreamEvent]:
        """What OpenAI streams, with the index of the image on each event."""
        look = self._look
        partials = [0] * len(self.drawing.job.seeds)
        async for event in self.drawing.events():
            now = int(time.time())
            match event:
                case Queued(ahead, wait_seconds) if self._request.queue_events:
                    yield QueuedEvent(position=ahead, wait_seconds=round(wait_seconds, 3))
                case Preview(index, rows, image):
                    yield PartialImageEvent(
                        size=look.size_text,
                        output_format=look.format,
                        b64_json=as_base64(await picture(image, look, {})),
                        partial_image_index=partials[index],
                        image_index=index,
                        rows=rows,
                        created_at=now,
                    )
                    partials[index] += 1
                case Finished(index=index):
                    content = await self._content(await finished_picture(self.drawing, event, look))
                    yield CompletedEvent(
                        size=look.size_text,
                        output_format=look.format,
                        b64_json=content.b64_json,
                        url=content.url,
                        image_index=index,
                        seed=self.drawing.job.seeds[index],
                        model=self.drawing.info.name,
                        created_at=now,
                        usage=usage(self.drawing, 1),
                    )

    async def _content(self, file: bytes) -> Content:
        if self._request.response_format == "b64_json":
            return Content(b64_json=as_base64(file))
        name = await self._service.store.put(file, self._look.format)
        return Content(url=self._service.link(self._connection, name))
