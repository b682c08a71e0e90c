"""Backend whose engine runs in a thread of the test process, so that tests can plant faults in it."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from model.janus import Janus
from model.quantization import Quantization
from serve.backends.child import describe
from serve.backends.engine_backend import EngineBackend
from serve.backends.loop import EngineLoop
from serve.backends.messages import Command, Died, Report
from serve.engine.engine import Engine


class ThreadBackend(EngineBackend):
    """Backend of one model; tests reach its engine as `engine`. A step samples one code, so that they can count."""

    def __init__(
        self,
        janus: Janus,
        *,
        slots: int = 16,
        queue_limit: int = 256,
        quantization: Quantization | None = None,
        release: bool = False,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine = Engine(janus, slots=slots, quantization=quantization, jacobi=False, release=release)
        loaded = describe(self.engine, quantization=quantization)
        super().__init__(loaded, ThreadLink(self.engine), queue_limit=queue_limit, on_death=on_death)


class ThreadLink:
    """Runs an engine's loop in a thread; see `serve.backends.engine_backend.Link`."""

    def __init__(self, engine: Engine) -> None:
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._messages: SimpleQueue[Report | Died | None] = SimpleQueue()
        self._killed = False
        loop = EngineLoop(engine, self._commands, self._messages.put)
        self._thread = threading.Thread(target=self._run, args=(loop,), name="engine", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        self._commands.put(command)

    def receive(self) -> Report | Died | None:
        return self._messages.get()

    def kill(self) -> None:
        """Report the engine as dead; a thread cannot be killed, so it runs on and its messages are not read."""
        self._killed = True
        self._messages.put(Died("the engine was given up"))

    def close(self) -> None:
        if not self._killed:
            self._thread.join()

    def _run(self, loop: EngineLoop) -> None:
        loop.run()
        self._messages.put(None)
