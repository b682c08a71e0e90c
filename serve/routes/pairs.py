"""Two prompts that differ in a word, side by side: the same seeds, one model or two."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Annotated, NamedTuple, TypeVar

from fastapi import APIRouter, Depends, Request

from pairs.difference import CodeDifference, Span, word_difference
from serve.answers import as_base64, finished_picture, picture
from serve.auth import Caller
from serve.connection import unless_gone
from serve.drawing import Drawing, begin
from serve.errors import ApiError, InvalidRequest
from serve.events import Finished, Preview, Queued
from serve.image import encode
from serve.pair_schemas import (
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
from serve.planning import Look, job_of, look_of, seeds_of
from serve.schemas import StreamEvent, Usage
from serve.service import ERRORS, STREAM, Service, caller_of
from serve.streaming import EventStream, merged

T = TypeVar("T")


class Side(NamedTuple):
    """One model's pictures of one of the two prompts."""

    model: str
    prompt: int


def pairs_router(service: Service) -> APIRouter:
    """`/v1/images/pairs`."""
    router = APIRouter(tags=["pairs"])

    @router.post("/v1/images/pairs", response_model=PairResponse, responses=ERRORS | STREAM)
    async def pairs(
        request: PairRequest, connection: Request, caller: Annotated[Caller, Depends(caller_of(service))]
    ) -> PairResponse | EventStream:
        """Make n pictures of each of two prompts, with the same seeds, and say where they differ."""
        comparison = Comparison(service, request, caller)
        if request.stream:
            drawings = list(comparison.drawings.values())
            return EventStream(drawings, comparison.events(), seconds=service.stream_seconds)
        async with AsyncExitStack() as owned:
            for drawing in comparison.drawings.values():
                await owned.enter_async_context(drawing.generation)
            return await unless_gone(connection, comparison.answer())

    return router


class Comparison:
    """One accepted request: a job for each model and prompt, all accepted or none."""

    def __init__(self, service: Service, request: PairRequest, caller: Caller) -> None:
        names: list[str | None] = [*request.models] or [None]
        backends = [service.models.find(name, param="models") for name in names]
        self.models = [backend.info.name for backend in backends]
        if len(set(self.models)) < len(self.models):
            raise InvalidRequest(f"models must differ: both are {self.models[0]!r}", param="models")
        self._request = request
        self.seeds = seeds_of(request)
        self._looks: dict[str, Look] = {backend.info.name: look_of(request, backend) for backend in backends}
        planned = [
            (
                backend,
                place,
                job_of(request, backend, {f"prompts[{place}]": prompt}, self.seeds, deadline=service.deadline),
            )
            for backend in backends
            for place, prompt in enumerate(request.prompts)
        ]
        service.limiter.check(caller, len(planned) * request.n)
        self.drawings: dict[Side, Drawing] = {}
        try:
            for backend, place, job in planned:
                self.drawings[Side(backend.info.name, place)] = begin(
                    backend,
                    job,
                    service.metrics,
                    prompt=request.prompts[place],
                    negative_prompt=request.negative_prompt,
                )
        except ApiError:
            for drawing in self.drawings.values():
                drawing.generation.leave()
            raise
        service.limiter.spend(caller, len(planned) * request.n)

    @cached_property
    def spans(self) -> tuple[list[SpanEntry], list[SpanEntry]]:
        """The words of each prompt that the other does not have."""
        first, second = self._request.prompts
        a, b = word_difference(first, second)
        return _entries(first, a), _entries(second, b)

    async def answer(self) -> PairResponse:
        """Everything, once all pictures are there."""
        images: dict[Side, dict[int, PairImage]] = {side: {} for side in self.drawings}
        differences: dict[str, dict[int, Difference]] = {model: {} for model in self.models}
        async for event in self.events():
            if isinstance(event, PairImageEvent):
                image = PairImage(b64_json=event.b64_json, seed=event.seed)
                images[Side(event.model, event.prompt_index)][event.image_index] = image
                if event.difference is not None:
                    differences[event.model][event.image_index] = event.difference
        look = self._looks[self.models[0]]
        return PairResponse(
            created=int(time.time()),
            prompts=self._request.prompts,
            spans=self.spans,
            seeds=list(self.seeds),
            size=look.size_text,
            output_format=look.format,
            models=[
                ModelPairs(
                    model=model,
                    images=(_in_order(images[Side(model, 0)]), _in_order(images[Side(model, 1)])),
                    differences=_in_order(differences[model]),
                    usage=self._usage(model),
                )
                for model in self.models
            ],
        )

    async def events(self) -> AsyncIterator[StreamEvent]:
        """What is streamed, each event with its model, prompt and image."""
        now = int(time.time())
        yield PairCreatedEvent(
            created=now, prompts=self._request.prompts, spans=self.spans, seeds=list(self.seeds), models=self.models
        )
        codes: dict[tuple[Side, int], tuple[int, ...]] = {}
        partials: dict[tuple[Side, int], int] = {}
        async for side, event in merged(self.drawings):
            look = self._looks[side.model]
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
                        b64_json=as_base64(await picture(image, look, {})),
                        partial_image_index=number,
                        rows=rows,
                        output_format=look.format,
                    )
                case Finished(index=index):
                    codes[side, index] = event.codes
                    other = codes.get((Side(side.model, 1 - side.prompt), index))
                    difference = None
                    if other is not None:
                        seed, size = self.seeds[index], look.size
                        difference = await asyncio.to_thread(_difference, event.codes, other, seed, size)
                    yield PairImageEvent(
                        model=side.model,
                        prompt_index=side.prompt,
                        image_index=index,
                        seed=self.seeds[index],
                        b64_json=as_base64(await finished_picture(self.drawings[side], event, look)),
                        output_format=look.format,
                        difference=difference,
                    )
        yield PairCompletedEvent(models=self.models, usage=[self._usage(model) for model in self.models])

    def _usage(self, model: str) -> Usage:
        drawings = [drawing for side, drawing in self.drawings.items() if side.model == model]
        read = sum(len(drawing.job.prompt) for drawing in drawings)
        return Usage.of(read=read, drawn=len(drawings) * len(self.seeds) * drawings[0].info.image_tokens)


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
