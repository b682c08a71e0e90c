"""Engines in processes of their own: an interpreter for each, and memory that is free when a model is unloaded.

Imports no torch: `serve.engine_process` is the other side.
"""

import atexit
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from weakref import WeakSet

from model.errors import CheckpointError, NoRoom
from serve.backend import EngineBackend, Loaded
from serve.config import ModelSource, Settings
from serve.messages import Command, Died, Report

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


@lru_cache(maxsize=1)
def context() -> BaseContext:
    """How processes are made; called early, it begins to import what engines need while this process does other things.

    Where they can be forked off one that has imported everything, a model is loaded seconds earlier.
    """
    if sys.platform == "linux":
        with suppress(OSError), _signals_kept_from_children():  # its socket's path may be too long
            forking = multiprocessing.get_context("forkserver")
            forking.set_forkserver_preload(["serve.engine_process"])
            forkserver.ensure_running()
            return forking
    return multiprocessing.get_context("spawn")


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
        self._loading: ProcessLink | None = None
        self._stopped = False

    def __call__(self, source: ModelSource) -> EngineBackend:
        """A backend for a model.

        Raises:
            NoRoom: it needs more memory than there is.
            CheckpointError: it cannot be loaded, or has no tokenizer.
        """
        settings = self._settings
        room = None
        if settings.memory_gib is not None:
            room = int(settings.memory_gib * 2**30) - sum(backend.held_bytes for backend in tuple(self._open))
        self._loading = link = ProcessLink(
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
        if self._stopped:
            link.kill()
        loaded = link.load()
        self._loading = None
        backend = EngineBackend(
            loaded,
            link,
            queue_limit=settings.queue,
            on_death=self._on_death,
            on_close=lambda: self._open.discard(backend),
        )
        self._open.add(backend)
        return backend

    def stop(self) -> None:
        """No more models are wanted: what is being loaded is not waited for. Callable from any thread."""
        self._stopped = True
        loading = self._loading
        if loading is not None:
            loading.kill()


class ProcessLink:
    """A new process for an engine."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._connection, theirs = context().Pipe()
        self._process: BaseProcess = context().Process(target=_run, args=(theirs, order), name=order.source.name)  # type: ignore[attr-defined]
        self._outbox: SimpleQueue[Command | None] = SimpleQueue()
        with _signals_kept_from_children():
            self._process.start()
        _LINKS.add(self)
        theirs.close()
        threading.Thread(target=self._send, name="commands", daemon=True).start()

    def load(self) -> Loaded:
        """What it says of its model once that is loaded; blocks.

        Raises:
            NoRoom: it needs more memory than there is, or the process was killed over it.
            CheckpointError: it cannot be loaded.
        """
        try:
            answer = self._receive()
            if isinstance(answer, Loaded):
                return answer
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Died)
            kind = NoRoom if self._process.exitcode == -signal.SIGKILL else CheckpointError
            raise kind(f"{self._order.source.name} was not loaded: {answer.reason}")
        except BaseException:
            self.close()
            raise

    def send(self, command: Command) -> None:
        """See `serve.dispatcher.Link`."""
        self._outbox.put(command)

    def receive(self) -> Report | Died | None:
        """See `serve.dispatcher.Link`."""
        message = self._receive()
        assert message is None or isinstance(message, Report | Died)
        return message

    def kill(self) -> None:
        """See `serve.dispatcher.Link`."""
        self._process.kill()

    def close(self) -> None:
        """See `serve.dispatcher.Link`."""
        self._outbox.put(None)
        self._connection.close()  # at which the process ends, whatever it does
        self._process.join(_ENDING_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self) -> None:
        # a thread of its own: a process that stands still must not hold up those who answer
        with suppress(OSError):  # it has ended: `receive` says so
            while (command := self._outbox.get()) is not None:
                self._connection.send(command)

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


@contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """What terminals and service managers send to all processes is for the one that answers, which tells the others."""
    resource_tracker.ensure_running()  # which unblocks them, the first time
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"with code {code}"
    killed = " (is there enough memory?)" if -code == signal.SIGKILL else ""
    names = {one.value: one.name for one in signal.Signals}
    return f"by {names.get(-code, f'signal {-code}')}{killed}"


def _run(connection: "Connection[object, object]", order: Order) -> None:
    from serve.engine_process import run  # brings torch, which this side is to do without

    run(connection, order)
