"""A model drawn by Triton servers, any of which may fail. Imports no torch."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from tokenizers import Tokenizer

from model.prompt import encode_prompt
from serve.backends.accepted import AcceptedJobs, check_room
from serve.backends.errors import NotRunning
from serve.backends.generation import Generation
from serve.backends.model_info import ModelInfo
from serve.backends.protocol import BackendState, Stats
from serve.backends.triton.call import Lost, Refused
from serve.backends.triton.fleet import Fleet, NoServer
from serve.backends.triton.loop_thread import LoopThread
from serve.backends.triton.progress import Progress
from serve.backends.triton.server import TritonServer
from serve.backends.triton.wire import Description
from serve.engine.events import Cause, Ended
from serve.engine.job import Job

logger = logging.getLogger("focusdiff")
_RETURN_SECONDS = 30.0  # for which an accepted job waits until a server is ready
_STARTS = 2  # failures while drawing, after which a job is suspected as their cause
_FAILURES = 10  # in all, drawing or not


class TritonBackend:
    """One model on one or several Triton servers. Has no state but the jobs it has accepted.

    A job goes to the ready server with the fewest unfinished images of ours. If that server fails, the unfinished
    images are drawn on another: with the same seeds they are the same pictures.

    Args:
        name: public name of the model.
        fleet: its servers; used by this backend only, and described.
        loop: the fleet's.
    """

    def __init__(self, name: str, fleet: Fleet, loop: LoopThread) -> None:
        assert fleet.description is not None
        self._name = name
        self._fleet = fleet
        self._loop = loop
        self._tokenizer = Tokenizer.from_str(fleet.description.tokenizer)
        self._accepted = AcceptedJobs[Progress]()
        self._tasks: dict[int, asyncio.Task[None]] = {}  # used on the fleet's event loop
        self._closing = False
        self._closed = False
        self._closed_once = threading.Lock()

    @property
    def info(self) -> ModelInfo:
        return replace(self._description.info, name=self._name)

    @property
    def servers(self) -> Sequence[TritonServer]:
        """Its servers, ready or not."""
        return self._fleet.servers

    @property
    def state(self) -> BackendState:
        if self._closing:
            return "draining"
        return "ready" if self._fleet.ready else "unreachable"

    @property
    def stats(self) -> Stats:
        """Counts of our accepted jobs, as of their latest events; slots and queues of the servers that are ready."""
        ready = self._fleet.ready
        return self._accepted.stats(slots=sum(server.pulse.slots for server in ready), queue=self._room(ready))

    def encode(self, prompt: str, *, name: str) -> list[int]:
        """Token ids of a prompt; raises PromptError, which names the field."""
        return encode_prompt(self._tokenizer, prompt, name=name, limit=self._description.max_prompt_tokens)

    def submit(self, job: Job) -> Generation:
        """Accept a job: its generation gets every event up to `Ended`.

        Raises:
            QueueFull: too many images wait, ours or all that the servers have.
            NotRunning: no server is ready, or the backend is closing.
        """
        with self._accepted:
            if self._closing:
                raise NotRunning("the server is draining")
            ready = self._fleet.ready
            if not ready:
                raise NotRunning(f"no Triton server is ready: {self._fleet.trouble}")
            waiting = self._accepted.waiting + sum(server.others for server in ready)
            wait_seconds = min(server.pulse.wait_seconds for server in ready)
            check_room(job.images, waiting=waiting, limit=self._room(ready), wait_seconds=wait_seconds)
            number, progress = self._accepted.add(job, self.info, Progress, self._cancel)
        self._loop.call(lambda: self._start(number, progress))
        return progress.generation

    def abandon(self) -> None:
        """End every accepted job with cause "stopping"."""
        self._end_all("stopping", "the server is stopping")

    def kill(self) -> None:
        """End every accepted job with cause "engine died"; takes no lock here, since it is called by a signal's handler."""
        self._loop.call(partial(self._end_all, "engine died", "the server was killed"))

    def close(self) -> None:
        """Finish the accepted jobs, then close the connections. Blocks."""
        with self._accepted:
            self._closing = True
        with self._closed_once:
            if not self._closed:
                self._loop.run(self._finish())
                self._closed = True

    @property
    def _description(self) -> Description:
        assert self._fleet.description is not None
        return self._fleet.description

    @staticmethod
    def _room(servers: Sequence[TritonServer]) -> int:
        """Images that may wait on these servers."""
        return sum(server.description.queue for server in servers if server.description is not None)

    def _cancel(self, number: int) -> None:
        with self._accepted:
            self._accepted.remove(number)
        self._loop.call(lambda: self._stop(number))

    def _end_all(self, cause: Cause, reason: str) -> None:
        with self._accepted:
            numbers = self._accepted.end(cause, reason)
        for number in numbers:
            self._loop.call(partial(self._stop, number))

    # what follows runs on the fleet's event loop

    def _start(self, number: int, progress: Progress) -> None:
        task = self._tasks[number] = asyncio.create_task(self._run(number, progress))
        task.add_done_callback(lambda _: self._tasks.pop(number))

    def _stop(self, number: int) -> None:
        if number in self._tasks:
            self._tasks[number].cancel()

    async def _finish(self) -> None:
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._fleet.close()

    async def _run(self, number: int, progress: Progress) -> None:
        ended = Ended("engine died", "something broke here; the server's log says what")
        try:
            ended = await self._draw_in_time(progress)
        except Exception:
            logger.exception("a job broke")
        with self._accepted:
            accepted = self._accepted.remove(number)
        if accepted is not None:  # nobody has ended it meanwhile
            progress.generation.put(ended)

    async def _draw_in_time(self, progress: Progress) -> Ended:
        try:
            async with asyncio.timeout(progress.generation.job.seconds_left):
                return await self._draw(progress)
        except TimeoutError:
            return Ended("deadline", "the deadline passed")

    async def _draw(self, progress: Progress) -> Ended:
        """Draw a job to its end, on as many servers as it takes."""
        refused: set[TritonServer] = set()
        reason = ""
        failures = 0
        while failures < _FAILURES:
            try:
                server = await self._fleet.choose(refused, seconds=_RETURN_SECONDS)
            except NoServer as error:
                return Ended("engine died", f"no Triton server is ready: {error}")
            if server is None:
                return Ended("queue full", reason)
            try:
                ended = await self._draw_on(server, progress)
            except Refused as error:
                reason = str(error)
                if error.refusal.cause == "queue full":
                    refused.add(server)
                    continue
                if error.refusal.cause == "invalid":
                    logger.error("%s refuses a job of ours: %s", server.url, reason)
                    return Ended("engine died", reason)
            except Lost as error:
                reason = str(error)
            else:
                if ended.cause in (None, "deadline"):
                    return ended
                reason = ended.reason
            if not progress.unfinished:
                return Ended()
            server.suspect(reason)
            failures += 1
            if progress.starts >= _STARTS:
                break
            logger.warning("%s: %s; %d images are drawn elsewhere", server.url, reason, progress.unfinished)
        return Ended("engine died", reason)

    async def _draw_on(self, server: TritonServer, progress: Progress) -> Ended:
        ended = None
        try:
            async with aclosing(server.draw(progress)) as events:
                async for event in events:  # to the end of the call, which is not to be cancelled when it is over
                    if isinstance(event, Ended):
                        ended = event
                        continue
                    with self._accepted:
                        progress.take(event)
        finally:
            with self._accepted:
                progress.stop()
        if ended is None:
            raise Lost("the server ended its answers early")
        return ended
