"""One model on one Triton server: whether it answers, how busy it is, and jobs drawn there. Imports no torch."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from serve.backends.triton.call import Lost, ModelLost, Refused
from serve.backends.triton.connection import Connection
from serve.backends.triton.progress import Progress
from serve.backends.triton.wire import Beat, Describe, Description, Draw, Pulse
from serve.engine.events import Event

logger = logging.getLogger("focusdiff")
_BEAT_SECONDS = 0.5


class TritonServer:
    """Used on one event loop.

    Triton calls itself ready while our model in it is dead. So its state is asked from our model, by a stream that is
    always open and has a beat every half second.

    Args:
        url: host:port of Triton's gRPC service.
        model: name in Triton.
        silence_seconds: without an answer, after which its calls are cancelled.
        on_change: called with the server when it becomes ready, or is no longer.
    """

    def __init__(
        self, url: str, model: str, *, silence_seconds: float, on_change: Callable[["TritonServer"], None]
    ) -> None:
        self.url = url
        self.model = model
        self._silence = silence_seconds
        self._on_change = on_change
        self._connection = Connection(url, model)
        self.jobs: set[Progress] = set()  # that are drawn there
        self.heard = time.monotonic()  # when something was answered last
        self.description: Description | None = None
        self.pulse = Pulse(ready=False)
        self.others = 0  # images of other clients that waited there at the latest beat
        self.reached = False  # whether Triton has answered, with our model or without
        self.trouble = "no answer yet"  # why it is not ready

    @property
    def silent(self) -> bool:
        """Whether nothing was answered for `silence_seconds`, though something was before."""
        return self.description is not None and time.monotonic() - self.heard >= self._silence

    @property
    def unfinished(self) -> int:
        """Images of ours that are still to be drawn there."""
        return sum(job.unfinished for job in self.jobs)

    async def watch(self) -> None:
        """Follow the server's state; never returns."""
        while True:
            try:
                await self._follow()
            except (Lost, Refused) as error:
                self.reached |= isinstance(error, ModelLost)
                self._set(Pulse(ready=False), str(error))
            except TimeoutError:
                self._set(Pulse(ready=False), f"no answer for {self._silence:g} seconds")
            except Exception as error:  # or the server would stay as it is, for ever
                logger.exception("an answer of %s cannot be read", self.url)
                self._set(Pulse(ready=False), f"its answer cannot be read: {type(error).__name__}")
            if self.silent:
                self._connection.drop()
            await asyncio.sleep(_BEAT_SECONDS)

    async def draw(self, progress: Progress) -> AsyncGenerator[Event]:
        """Events of a new attempt at a job, which is cancelled when the iterator is closed.

        Raises:
            Refused: the server does not accept it.
            Lost: the server is gone, or answers nothing any more.
        """
        job = progress.begin()
        negative = None if job.negative_prompt is None else tuple(job.negative_prompt)
        request = Draw(
            key=uuid.uuid4().hex,
            prompt=tuple(job.prompt),
            negative_prompt=negative,
            seeds=job.seeds,
            guidance_scale=job.params.guidance_scale,
            temperature=job.params.temperature,
            top_k=job.params.top_k,
            top_p=job.params.top_p,
            preview_rows=job.preview_rows,
            seconds=job.seconds_left,
        )
        self.jobs.add(progress)
        try:
            async with aclosing(self._connection.draw(request)) as answers:
                async for answer in answers:
                    self.heard = time.monotonic()
                    yield answer.event
        finally:
            self.jobs.discard(progress)

    def suspect(self, trouble: str) -> None:
        """Give it no more jobs before its next beat."""
        self._set(Pulse(ready=False), trouble)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def _follow(self) -> None:
        """Describe the model, then follow its beats until one is missing."""
        async with asyncio.timeout(self._silence):
            answer = await self._connection.ask(Describe())
        self.description = Description.model_validate_json(answer.content)
        self.reached = True
        async with aclosing(self._connection.stream(_beats())) as answers, asyncio.timeout(self._silence) as limit:
            async for answer in answers:
                limit.reschedule(asyncio.get_running_loop().time() + self._silence)
                self.heard = time.monotonic()
                pulse = Pulse.model_validate_json(answer.content)
                if pulse.model != self.description.digest:
                    self._set(Pulse(ready=False), "another checkpoint was loaded")
                    return  # it is described next
                self.others = max(0, pulse.waiting - sum(job.waiting for job in self.jobs))
                self._set(pulse, "the engine is loading")
        raise Lost("the server ended the call")

    def _set(self, pulse: Pulse, trouble: str) -> None:
        changed = pulse.ready != self.pulse.ready
        if pulse.ready:
            trouble = ""
        news = trouble != self.trouble
        if trouble:  # first, so that other threads never see a server that is not ready and has no trouble
            self.trouble = trouble
        self.pulse = pulse
        self.trouble = trouble
        if news and self.description is not None:  # before, whoever waits for it says so
            logger.log(logging.WARNING if trouble else logging.INFO, "%s: %s", self.url, trouble or "ready")
        if changed:
            self._on_change(self)


async def _beats() -> AsyncIterator[Beat]:
    while True:
        yield Beat()
        await asyncio.sleep(_BEAT_SECONDS)
