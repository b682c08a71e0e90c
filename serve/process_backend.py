"""Engines in processes of their own: an interpreter for each, and memory that is free when a model is unloaded.

Imports no torch: `serve.engine_process` is the other side.
"""

import atexit
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from weakref import WeakSet

from model.errors import CheckpointError
from serve.backend import EngineBackend, Loaded
from serve.config import ModelSource, Settings
from serve.messages import Command, Died, Report

# Where a process can be forked off one that has imported what all need, a model is loaded seconds earlier.
_CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_ENDING_SECONDS = 30.0  # for a process that has nothing more to do


@dataclass(frozen=True)
class Order:
    """What an engine's process is to load, and how. `room` is the memory it may take, in bytes; None is all there is."""

    source: ModelSource
    device: str
    dtype: str
    int8: bool
    slots: int
    room: int | None
    log_level: str
    log_format: str


def prepare() -> None:
    """Begin to import what engines need, beside whatever this process does meanwhile."""
    if _CONTEXT.get_start_method() == "forkserver":
        _CONTEXT.set_forkserver_preload(["serve.engine_process"])
        forkserver.ensure_running()


class ProcessLoader:
    """Loads models, each into a process; called from one thread at a time.

    Args:
        settings: device, dtype, slots, queue and memory.
        on_death: called once an engine has failed, or its process was ended.
    """

    def __init__(self, settings: Settings, *, on_death: Callable[[], None]) -> None:
        self._settings = settings
        self._on_death = on_death
        self._open: set[EngineBackend] = set()

    def __call__(self, source: ModelSource) -> EngineBackend:
        """A backend for a model.

        Raises:
            NoRoom: it needs more memory than there is.
            CheckpointError: it cannot be loaded, or has no tokenizer.
        """
        settings = self._settings
        room = None
        if settings.memory_gib is not None:
            room = int(settings.memory_gib * 2**30) - sum(backend.held_bytes for backend in self._open)
        link = ProcessLink(
            Order(
                source,
                settings.device,
                settings.dtype,
                settings.int8,
                settings.slots,
                room,
                settings.log_level,
                settings.log_format,
            )
        )
        backend = EngineBackend(
            link.loaded,
            link,
            queue_limit=settings.queue,
            on_death=self._on_death,
            on_close=lambda: self._open.discard(backend),
        )
        self._open.add(backend)
        return backend


class ProcessLink:
    """Loads a model in a new process; blocks until it has, or has not.

    Attributes:
        loaded: what the process says of its model.

    Raises:
        CheckpointError: it cannot be loaded, or the process was killed over it.
    """

    def __init__(self, order: Order) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        self._process: BaseProcess = _CONTEXT.Process(target=_run, args=(theirs, order), name=order.source.name)  # type: ignore[attr-defined]
        self._sending = threading.Lock()
        self._process.start()
        _LINKS.add(self)
        theirs.close()
        answer = self._receive()
        if not isinstance(answer, Loaded):
            self.close()
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Died)
            raise CheckpointError(f"{order.source.name} was not loaded: {answer.reason}")
        self.loaded = answer

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """See `serve.dispatcher.Link`."""
        with self._sending, suppress(OSError):  # it has ended: `receive` says so
            self._connection.send(command)

    def receive(self) -> Report | Died | None:
        """See `serve.dispatcher.Link`."""
        message = self._receive()
        assert message is None or isinstance(message, Report | Died)
        return message

    def close(self) -> None:
        """See `serve.dispatcher.Link`."""
        self._connection.close()  # at which the process ends, whatever it does
        self._process.join(_ENDING_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def _receive(self) -> object:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_ENDING_SECONDS)
            return Died(f"the engine's process ended {_how(self._process.exitcode)}")


_LINKS: WeakSet[ProcessLink] = WeakSet()


@atexit.register  # after multiprocessing's own, and so called before it, which waits for all processes
def _kill_all() -> None:
    for link in _LINKS:
        link.kill()


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"with code {code}"
    killed = " (is there enough memory?)" if -code == signal.SIGKILL else ""
    return f"by {signal.Signals(-code).name}{killed}"


def _run(connection: "Connection[object, object]", order: Order) -> None:
    from serve.engine_process import run  # brings torch, which this side is to do without

    run(connection, order)
