"""Engines in processes of their own: an interpreter for each, and memory that is free when a model is unloaded.

Imports no torch: `serve.engine_process` is the other side.
"""

import atexit
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from weakref import WeakSet

from model.errors import CheckpointError, NoRoom
from serve.backend import EngineBackend, Loaded
from serve.config import ModelSource, Settings
from serve.messages import Command, Died, Report

_ENDING_SECONDS = 30.0  # for a process that has nothing more to do
# forked off one that has imported everything, an engine starts seconds earlier but draws up to three per cent slower
_PROCESSES = multiprocessing.get_context("spawn")


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
        self._ahead: deque[ProcessLink] = deque()
        self._loading: ProcessLink | None = None
        self._stopped = False

    def start_ahead(self, count: int) -> None:
        """Start processes for models that are to come: they import what they need while this one does other things."""
        self._ahead.extend(ProcessLink() for _ in range(count))

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
        self._loading = link = self._ahead.popleft() if self._ahead else ProcessLink()
        if self._stopped:
            link.kill()
        loaded = link.load(
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
        self._loading = None
        if self._stopped:  # and it may have been killed since
            link.close()
            raise CheckpointError(f"{source.name} was not loaded: the server is stopping")
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

    def __init__(self) -> None:
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_run, args=(theirs,), name="engine")
        self._outbox: SimpleQueue[Order | Command | None] = SimpleQueue()
        with _signals_kept_from_children():
            self._process.start()
        _LINKS.add(self)
        theirs.close()
        threading.Thread(target=self._send, name="commands", daemon=True).start()

    def load(self, order: Order) -> Loaded:
        """What it says of its model once that is loaded; blocks; the first that is called.

        Raises:
            NoRoom: it needs more memory than there is, or the process was killed over it.
            CheckpointError: it cannot be loaded.
        """
        try:
            self._outbox.put(order)
            answer = self._receive()
            if isinstance(answer, Loaded):
                return answer
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Died)
            kind = NoRoom if self._process.exitcode == -signal.SIGKILL else CheckpointError
            raise kind(f"{order.source.name} was not loaded: {answer.reason}")
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


def _run(connection: "Connection[object, object]") -> None:
    from serve.engine_process import run  # brings torch, which this side is to do without

    run(connection)
