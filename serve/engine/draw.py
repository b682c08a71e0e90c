"""The offline entrance: pictures of many jobs, without a server."""

from collections.abc import Callable, Generator, Iterable

from serve.engine.engine import Engine
from serve.engine.events import Ended, Failed, Finished, Preview
from serve.engine.job import Job, JobState


def draw(
    engine: Engine, jobs: Iterable[Job | None], *, on_step: Callable[[int], object] = lambda codes: None
) -> Generator[tuple[Job, Preview | Finished | Failed], None, None]:
    """Draw jobs and yield each image as soon as it is complete, in the order of completion.

    Jobs are taken from the iterable as slots become free, so it may be long, or endless. Closing the iterator, or
    leaving it by an exception, cancels what is not complete.

    Args:
        engine: idle; not used elsewhere meanwhile.
        jobs: their deadlines apply. None means that no job is due yet: the iterable is asked again after the next
            step, or at once if nothing is running.
        on_step: called after each step with the number of codes sampled so far, of unfinished images too.

    Yields:
        The job, and `Finished` with picture and codes, or `Failed`; before it, `Preview` where the job asks for any.

    Raises:
        TimeoutError: the deadline of a job passed.
    """
    left = iter(jobs)
    more = True
    open_jobs: set[JobState] = set()
    complete = codes = 0  # images, and what was told of codes
    try:
        while more or not engine.idle:
            while more and engine.scheduler.waiting_images < engine.slots:
                try:
                    job = next(left)
                except StopIteration:
                    more = False
                    break
                if job is None:
                    break
                open_jobs.add(engine.submit(job))
            if engine.idle:
                continue
            late = None
            for state, event in engine.step():
                if isinstance(event, Ended):
                    open_jobs.discard(state)
                    late = late or (event.reason if event.cause else None)
                elif isinstance(event, Preview | Finished | Failed):
                    complete += not isinstance(event, Preview)
                    yield state.job, event
            if late is not None:
                raise TimeoutError(late)
            running = sum(slot.sampled for slot in engine.scheduler.running)
            # what is complete is neither running nor counted while its picture is drawn beside the steps
            codes = max(codes, complete * engine.janus.image_tokens + running)
            on_step(codes)
    finally:
        for state in open_jobs:
            engine.cancel(state)
