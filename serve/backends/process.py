"""An engine's process, seen from the server. Imports no torch; `serve.backends.child` is the other side."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue

from model.errors import CheckpointError, NoRoom
from serve.backends.messages import Command, Died, Loaded, LoadModel, Report

_ENDING_SECONDS = 30.0  # for a process that has nothing more to do
# forked off a process that has imported everything, an engine starts seconds earlier but draws up to 3 % slower
_PROCESSES = multiprocessing.get_context("spawn")


class EngineProcess:
    """A new process for an engine, and the link to it (`serve.backends.engine_backend.Link`)."""

    def __init__(self) -> None:
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_run, args=(theirs,), name="engine")
        self._outbox: SimpleQueue[LoadModel | Command | None] = SimpleQueue()
        # OpenMP's threads then sleep while they wait for each other: spinning, they take busy cores from those they wait
        # for (docs/performance.md#busy-cores)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        with _signals_kept_from_children():
            self._process.start()
        # multiprocessing waits for its processes when the interpreter exits; handlers registered later run earlier
        atexit.register(self.kill)
        theirs.close()
        threading.Thread(target=self._send, name="commands", daemon=True).start()

    def load(self, order: LoadModel) -> Loaded:
        """Load a model; must be the first call. Blocks.

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
        """See `Link`."""
        self._outbox.put(command)

    def receive(self) -> Report | Died | None:
        """See `Link`."""
        message = self._receive()
        assert message is None or isinstance(message, Report | Died)
        return message

    def kill(self) -> None:
        """See `Link`."""
        self._process.kill()

    def close(self) -> None:
        """See `Link`."""
        self._outbox.put(None)
        self._connection.close()  # at which the process ends, whatever it does
        self._process.join(_ENDING_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        atexit.unregister(self.kill)

    def _send(self) -> None:
        # on a thread of its own: a process that does not read must not block the server
        with suppress(OSError):  # it has ended: `receive` says so
            while (command := self._outbox.get()) is not None:
                self._connection.send(command)

    def _receive(self) -> object:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_ENDING_SECONDS)
            return Died(f"the engine's process ended {_how(self._process.exitcode)}")


@contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """Start processes with SIGINT and SIGTERM blocked.

    Terminals and service managers signal the whole group; only the server reacts, and it tells its engines.
    """
    resource_tracker.ensure_running()  # the first time, this unblocks the signals
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
    from serve.backends.child import run  # imports torch, which the server does without

    run(connection)
