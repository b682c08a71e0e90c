"""A process that ends with the server, and the pipe to it. Imports no torch."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue

_ENDING_SECONDS = 30.0  # for a process that has nothing more to do
# forked off a process that has imported everything, an engine starts seconds earlier but draws up to 3 % slower
_PROCESSES = multiprocessing.get_context("spawn")


class ProcessEnded(Exception):
    """The process has ended; the message says how. `killed`: by SIGKILL, as the kernel does when memory runs out."""

    def __init__(self, code: int | None) -> None:
        super().__init__(_how(code))
        self.killed = code == -signal.SIGKILL


class ChildProcess:
    """A new process, which SIGINT and SIGTERM do not reach, and messages to and from it.

    Args:
        run: everything that the process does with its end of the pipe; importable. It must end when the pipe does.
        name: of the process.
    """

    def __init__(self, run: "Callable[[Connection[object, object]], None]", *, name: str) -> None:
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=run, args=(theirs,), name=name)
        self._outbox: SimpleQueue[object] = SimpleQueue()
        # OpenMP's threads then sleep while they wait for each other: spinning, they take busy cores from those they wait
        # for (docs/performance.md#busy-cores)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        with _signals_kept_from_children():
            self._process.start()
        # multiprocessing waits for its processes when the interpreter exits; handlers registered later run earlier
        atexit.register(self.kill)
        theirs.close()
        threading.Thread(target=self._send, name="commands", daemon=True).start()

    @property
    def ended(self) -> ProcessEnded | None:
        """The end of the process; None while it lives."""
        return None if self._process.is_alive() else ProcessEnded(self._process.exitcode)

    def send(self, message: object) -> None:
        """Send a message, which is not None, and return at once; ignored once the process has ended."""
        self._outbox.put(message)

    def receive(self) -> object:
        """Block until the process's next message; raises ProcessEnded."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_ENDING_SECONDS)
            raise ProcessEnded(self._process.exitcode) from None

    def kill(self) -> None:
        """End the process at once; `receive` then raises ProcessEnded."""
        self._process.kill()

    def close(self) -> None:
        """End the process, and free what it holds; no other thread may be in `receive`."""
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
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)


def listen(connection: "Connection[object, object]", take: Callable[[object], None]) -> None:
    """Take the server's messages, on a thread of the child's, whatever it computes; end the child with the server."""

    def read() -> None:
        while True:
            try:
                take(connection.recv())
            except (EOFError, OSError):
                os._exit(0)  # the server is gone

    threading.Thread(target=read, name="commands", daemon=True).start()


@contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """Start processes with SIGINT and SIGTERM blocked.

    Terminals and service managers signal the whole group; only the server reacts, and it tells its processes.
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
