"""Pictures of two similar prompts with the same seeds, from one model or two."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Annotated, NamedTuple, TypeVar

from fastapi import APIRouter, Depends, Request

from pairs.difference import CodeDifference, Span, word_difference
from pairs.picture_file import encode
from serve.backends.generation import Generation
from serve.engine.events import Finished, Preview, Queued
from serve.http.answers import as_base64, metadata, picture_file
from serve.http.cancellation import cancel_on_disconnect
from serve.http.errors import InvalidRequest
from serve.http.guards.keys import Caller
from serve.http.pair_schemas import (
    Difference,
    ModelPairs,
    PairCompletedEvent,
    PairCreatedEvent,
    PairImage,
    PairImageEvent,
    PairPartialImageEvent,
    PairQueuedEvent,
    PairRequest,
    PairResponse,
    SpanEntry,
)
from serve.http.planning import PictureFormat, job_of, picture_format, seeds_of
from serve.http.schemas import StreamEvent, Usage
from serve.http.service import ERRORS, STREAM, Service, caller_of
from serve.http.streaming import EventStream, merged

T = TypeVar("T")


class JobKey(NamedTuple):
    """Key of a job: model name, and index of the prompt (0 or 1)."""

    model: str
    prompt: int


def pairs_router(service: Service) -> APIRouter:
    """Route `/v1/images/pairs`."""
    router = APIRouter(tags=["pairs"])

    @router.post("/v1/images/pairs", response_model=PairResponse, responses=ERRORS | STREAM)
    async def pairs(
        request: PairRequest, connection: Request, caller: Annotated[Caller, Depends(caller_of(service))]
    ) -> PairResponse | EventStream:
        """Draw n pictures of each of two prompts with the same seeds, and show where they differ."""
        comparison = Comparison(service, request, caller)
        if request.stream:
            generations = list(comparison.generations.values())
            return EventStream(generations, comparison.events(), seconds=service.stream_seconds)
        async with AsyncExitStack() as owned:
            for generation in comparison.generations.values():
                await owned.enter_async_context(generation)
            return await cancel_on_disconnect(connection, comparison.answer())

    return router


class Comparison:
    """An accepted pair request: one job per model and prompt, all accepted or none."""

    def __init__(self, service: Service, request: PairRequest, caller: Caller) -> None:
        names: list[str | None] = [*request.models] or [None]
        backends = [service.find(name, param="models").backend for name in names]
        self.models = [backend.info.name for backend in backends]
        if len(set(self.models)) < len(self.models):
            raise InvalidRequest(f"models must differ: both are {self.models[0]!r}", param="models")
        self._request = request
        self._metrics = service.metrics
        self.seeds = seeds_of(request)
        self._formats: dict[str, PictureFormat] = {
            backend.info.name: picture_format(request, backend) for backend in backends
        }
        sides = [(backend, number) for backend in backends for number in (0, 1)]
        jobs = [
            job_of(
                request,
                backend,
                {f"prompts[{number}]": request.prompts[number]},
                self.seeds,
                deadline=service.deadline,
            )
            for backend, number in sides
        ]
        accepted = service.submit(caller, [(backend, job) for (backend, _), job in zip(sides, jobs, strict=True)])
        self.generations: dict[JobKey, Generation] = {
            JobKey(backend.info.name, number): generation
            for (backend, number), generation in zip(sides, accepted, strict=True)
        }

    @cached_property
    def spans(self) -> tuple[list[SpanEntry], list[SpanEntry]]:
        """Words of each prompt that the other does not have."""
        first, second = self._request.prompts
        a, b = word_difference(first, second)
        return _entries(first, a), _entries(second, b)

    async def answer(self) -> PairResponse:
        """Build the JSON answer once all pictures are complete."""
        images: dict[JobKey, dict[int, PairImage]] = {side: {} for side in self.generations}
        differences: dict[str, dict[int, Difference]] = {model: {} for model in self.models}
        async for event in self.events():
            if isinstance(event, PairImageEvent):
                image = PairImage(b64_json=event.b64_json, seed=event.seed)
                images[JobKey(event.model, event.prompt_index)][event.image_index] = image
                if event.difference is not None:
                    differences[event.model][event.image_index] = event.difference
        format = self._formats[self.models[0]]
        return PairResponse(
            created=int(time.time()),
            prompts=self._request.prompts,
            spans=self.spans,
            seeds=list(self.seeds),
            size=str(format.size),
            output_format=format.name,
            models=[
                ModelPairs(
                    model=model,
                    images=(_in_order(images[JobKey(model, 0)]), _in_order(images[JobKey(model, 1)])),
                    differences=_in_order(differences[model]),
                    usage=self._usage(model),
                )
                for model in self.models
            ],
        )

    async def events(self) -> AsyncIterator[StreamEvent]:
        """Yield the streamed events, each with its model, prompt and image."""
        now = int(time.time())
        yield PairCreatedEvent(
            created=now, prompts=self._request.prompts, spans=self.spans, seeds=list(self.seeds), models=self.models
        )
        codes: dict[tuple[JobKey, int], tuple[int, ...]] = {}
        partials: dict[tuple[JobKey, int], int] = {}
        async for side, event in merged(self.generations, self._metrics):
            format = self._formats[side.model]
            match event:
                case Queued(ahead, wait_seconds) if self._request.queue_events:
                    yield PairQueuedEvent(
                        model=side.model, prompt_index=side.prompt, position=ahead, wait_seconds=round(wait_seconds, 3)
                    )
                case Preview(index, rows, image):
                    number = partials[side, index] = partials.get((side, index), -1) + 1
                    yield PairPartialImageEvent(
                        model=side.model,
                        prompt_index=side.prompt,
                        image_index=index,
                        seed=self.seeds[index],
                        b64_json=as_base64(await picture_file(image, format)),
                        partial_image_index=number,
                        rows=rows,
                        output_format=format.name,
                    )
                case Finished(index=index):
                    codes[side, index] = event.codes
                    other = codes.get((JobKey(side.model, 1 - side.prompt), index))
                    difference = None
                    if other is not None:
                        seed, size = self.seeds[index], format.drawn.width
                        difference = await asyncio.to_thread(_difference, event.codes, other, seed, size)
                    settings = metadata(
                        self.generations[side], index, self._request, self._request.prompts[side.prompt]
                    )
                    yield PairImageEvent(
                        model=side.model,
                        prompt_index=side.prompt,
                        image_index=index,
                        seed=self.seeds[index],
                        b64_json=as_base64(await picture_file(event.picture, format, settings)),
                        output_format=format.name,
                        difference=difference,
                    )
        yield PairCompletedEvent(models=self.models, usage=[self._usage(model) for model in self.models])

    def _usage(self, model: str) -> Usage:
        own = [generation for side, generation in self.generations.items() if side.model == model]
        read = sum(len(generation.job.prompt) for generation in own)
        return Usage.of(read=read, drawn=len(own) * len(self.seeds) * own[0].info.image_tokens)


def _difference(first: tuple[int, ...], second: tuple[int, ...], seed: int, size: int) -> Difference:
    codes = CodeDifference.of(first, second)
    return Difference(
        seed=seed,
        grid=[[1 if cell else 0 for cell in row] for row in codes.rows],
        share=codes.share,
        overlay_b64_json=as_base64(encode(codes.overlay(size), {"seed": seed})),
    )


def _entries(text: str, spans: list[Span]) -> list[SpanEntry]:
    return [SpanEntry(start=span.start, stop=span.stop, text=text[span.start : span.stop]) for span in spans]


def _in_order(by_index: dict[int, T]) -> list[T]:
    return [by_index[index] for index in sorted(by_index)]
