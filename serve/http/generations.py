"""Events of a generation, counted in the metrics, with failures raised as API errors."""

from collections.abc import AsyncIterator

from opentelemetry import trace

from serve.backends.generation import Generation
from serve.engine.events import Ended, Event, Failed, Finished, Preview, Started
from serve.engine.job import Job
from serve.http.errors import ApiError, Busy, DeadlinePassed, GenerationFailed, Unavailable
from serve.http.metrics import Metrics


async def counted(generation: Generation, metrics: Metrics) -> AsyncIterator[Event]:
    """Yield the events of a job and count them.

    Raises:
        ApiError: an image failed, or the job ended early.
    """
    model = generation.info.name
    previewed: set[int] = set()
    started: dict[int, float] = {}
    async for event in generation:
        metrics.count(model, event, generation.seconds)
        trace.get_current_span().add_event(type(event).__name__, {"model": model})
        if isinstance(event, Preview) and event.index not in previewed:
            previewed.add(event.index)
            metrics.first_preview(model, generation.seconds)
        elif isinstance(event, Started):
            started[event.index] = generation.seconds
        elif isinstance(event, Finished):
            metrics.draw(model, generation.seconds - started[event.index])
        if error := _error(event, generation.job):
            raise error
        yield event


async def finished(generation: Generation, metrics: Metrics) -> list[Finished]:
    """Wait for all images of a job, in the order of its seeds; raises like `counted`."""
    images = {event.index: event async for event in counted(generation, metrics) if isinstance(event, Finished)}
    return [images[index] for index in range(generation.job.images)]


def _error(event: Event, job: Job) -> ApiError | None:
    match event:
        case Failed(index, reason):
            return GenerationFailed(f"image {index} (seed {job.seeds[index]}): {reason}")
        case Ended("deadline", reason):
            return DeadlinePassed(reason)
        case Ended("queue full", reason):
            return Busy(f"{reason}; try again later", code="queue_full", retry_after=1)
        case Ended("engine died" | "stopping", reason):
            return Unavailable(reason)
    return None
