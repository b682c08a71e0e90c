"""One job on its way, seen from HTTP: its events, its pictures, and what a client is told when one does not come."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from opentelemetry import trace

from serve.backend import Backend, Generation, ModelInfo
from serve.dispatcher import NotRunning, QueueFull
from serve.errors import ApiError, Busy, DeadlinePassed, GenerationFailed, Unavailable
from serve.events import Event, Failed, Finished, Preview
from serve.metrics import Metrics
from serve.request import Job


@dataclass(eq=False)
class Drawing:
    """A job that was accepted. It is given back by whoever leaves its `generation`, finished or not."""

    info: ModelInfo
    job: Job
    prompt: str
    negative_prompt: str | None
    generation: Generation
    metrics: Metrics
    started: float = field(default_factory=time.monotonic)
    _previewed: set[int] = field(default_factory=set)

    async def events(self) -> AsyncIterator[Event]:
        """What happens to it, up to its last picture.

        Raises:
            ApiError: one of its pictures will not come.
        """
        async for event in self.generation:
            seconds = self.generation.moment - self.started
            self.metrics.count(self.info.name, event, seconds)
            trace.get_current_span().add_event(type(event).__name__, {"model": self.info.name})
            if isinstance(event, Preview) and event.index not in self._previewed:
                self._previewed.add(event.index)
                self.metrics.first_preview(self.info.name, seconds)
            if isinstance(event, Failed):
                raise failure(event, self.job)
            yield event

    async def finished(self) -> list[Finished]:
        """Its pictures in the order of its seeds; raises as `events` does."""
        images = {event.index: event async for event in self.events() if isinstance(event, Finished)}
        return [images[index] for index in range(len(self.job.seeds))]


def begin(backend: Backend, job: Job, metrics: Metrics, *, prompt: str, negative_prompt: str | None) -> Drawing:
    """Hand a job to a backend.

    Raises:
        Busy: its queue is full.
        Unavailable: it takes no jobs any more.
    """
    try:
        generation = backend.submit(job)
    except QueueFull as full:
        metrics.refuse(backend.info.name)
        raise Busy(f"{full}; try again later", code="queue_full", retry_after=full.wait_seconds) from None
    except NotRunning as error:
        raise Unavailable(str(error)) from None
    return Drawing(backend.info, job, prompt, negative_prompt, generation, metrics)


def failure(event: Failed, job: Job) -> ApiError:
    """What a client is told of a picture that will not come."""
    match event.cause:
        case "engine died" | "stopping":
            return Unavailable(event.reason)
        case "deadline":
            return DeadlinePassed(event.reason)
        case "not finite":
            assert event.index is not None
            return GenerationFailed(f"image {event.index} (seed {job.seeds[event.index]}): {event.reason}")
