"""The upscaler, seen from the server: its process, its queue, and Lanczos's filter in its place. Imports no torch."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection

from PIL import Image

from model.errors import CheckpointError
from serve.child_process import ChildProcess, ProcessEnded
from serve.upscaling.messages import Cancel, LoadNetwork, NetworkLoaded, NotUpscaled, Upscale, Upscaled

logger = logging.getLogger("focusdiff")
LANCZOS = "lanczos"
_MOST_WAITING = 32  # pictures; more would outlast their deadlines


class _Failed(Exception):
    """A picture that was not enlarged; the message says why."""


@dataclass(frozen=True, eq=False)
class Enlarged:
    """A picture for an answer.

    picture: at the wanted side, or as it was drawn, to be enlarged by Lanczos's filter.
    filter: how it is enlarged, for people.
    seconds: in the upscaler; None if it has not enlarged the picture.
    """

    picture: Image.Image
    filter: str = LANCZOS
    seconds: float | None = None


class Upscaler:
    """Enlarges one picture at a time, in order of arrival, in a process that is started again when it ends.

    Args:
        order: the network.
    """

    def __init__(self, order: LoadNetwork) -> None:
        self.name = order.file.name
        self.network: NetworkLoaded | None = None  # once it was loaded
        self._order = order
        self._stopped = False
        self._ready: bool  # whether the present process has loaded it
        self._process: ChildProcess
        self._start()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="upscaler")
        self._numbers = count()
        self._waiting = 0

    async def load(self) -> None:
        """Wait until the network is loaded; raises CheckpointError, which names the file."""
        await asyncio.wrap_future(self._thread.submit(self._load))

    async def enlarge(self, picture: Image.Image, side: int, *, seconds: float | None) -> Enlarged:
        """Enlarge a square picture to `side` pixels; if that fails, return it as it is, with the reason.

        Args:
            picture: the square.
            side: pixels.
            seconds: time limit, the wait included.
        """
        try:
            if self._waiting >= _MOST_WAITING:
                raise _Failed(f"{self._waiting} pictures wait for it already")
            async with asyncio.timeout(seconds):
                return await self._ask(picture, side)
        except TimeoutError:
            reason = "the deadline passed"
        except (_Failed, CheckpointError) as error:
            reason = str(error)
        logger.warning("a picture was enlarged by Lanczos's filter instead of %s: %s", self.name, reason)
        return Enlarged(picture, f"{LANCZOS} (instead of {self.name}: {reason})")

    def stop(self) -> None:
        """End the process; pictures that wait are returned as they are. From any thread."""
        self._stopped = True
        self._process.kill()

    def close(self) -> None:
        """Stop, and free what it holds. Blocks."""
        self.stop()
        self._thread.shutdown()
        self._process.close()

    async def _ask(self, picture: Image.Image, side: int) -> Enlarged:
        number = next(self._numbers)
        asked = self._thread.submit(self._enlarge, Upscale(number, picture, side))
        self._waiting += 1
        try:
            return await asyncio.wrap_future(asked)
        except asyncio.CancelledError:
            if not asked.cancel():  # its turn has come
                self._process.send(Cancel(number))
            raise
        finally:
            self._waiting -= 1

    def _enlarge(self, order: Upscale) -> Enlarged:
        network = self._load()
        started = time.monotonic()
        self._process.send(order)
        try:
            answer = self._process.receive()
        except ProcessEnded as ended:
            self._start_again(ended)
            raise _Failed(f"its process ended {ended}") from None
        if isinstance(answer, NotUpscaled):
            raise _Failed(answer.reason)
        assert isinstance(answer, Upscaled)
        passes = "1 pass" if answer.passes == 1 else f"{answer.passes} passes"
        reduced = f", reduced by {LANCZOS}" if answer.reduced else ""
        filter = f"{self.name} ({network.architecture} x{network.scale}, {passes}{reduced})"
        return Enlarged(answer.picture, filter, time.monotonic() - started)

    def _load(self) -> NetworkLoaded:
        """Wait until a process has loaded the network; starts another one if the last has ended."""
        if ended := self._process.ended:
            self._start_again(ended)
        if not self._ready:
            try:
                answer = self._process.receive()
            except ProcessEnded as ended:
                answer = CheckpointError(f"{self._order.file} was not loaded: the process ended {ended}")
            if isinstance(answer, Exception):
                self._process.close()
                raise CheckpointError(f"upscaler: {answer}")
            assert isinstance(answer, NetworkLoaded)
            self.network, self._ready = answer, True
        assert self.network is not None
        return self.network

    def _start(self) -> None:
        self._ready = False
        self._process = ChildProcess(_run, name="upscaler")
        self._process.send(self._order)
        if self._stopped:
            self._process.kill()

    def _start_again(self, ended: ProcessEnded) -> None:
        """Start a process in place of one that has ended, unless the server is stopping."""
        if self._stopped:
            raise _Failed("the server is stopping")
        logger.error("the upscaler's process ended %s; it is started again", ended)
        self._process.close()
        self._start()


def _run(connection: "Connection[object, object]") -> None:
    from serve.upscaling.child import run  # imports torch, which the server does without

    run(connection)
