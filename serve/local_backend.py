"""A backend in this process: an engine in a thread of its own, for programs that have a model already.

The server's engines have processes of their own (`serve.engine_process`): beside an interpreter that answers clients
an engine waits for its turns.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from model.decoder_weights import let_go
from model.janus import Janus
from serve.backend import EngineBackend, Loaded, ModelInfo
from serve.engine import Engine
from serve.engine_loop import EngineLoop
from serve.messages import Command, Died, Report


class LocalBackend(EngineBackend):
    """One model in this process.

    Args:
        janus: with `int8` (see `model.decoder.Decoder`) its own matrices are freed, and it serves nobody else.
        images: guided ones that are drawn at once.
        queue_limit: see `EngineBackend`.
        int8: whether matrices are integers.
        on_death: see `EngineBackend`.
    """

    def __init__(
        self,
        janus: Janus,
        *,
        images: int = 16,
        queue_limit: int = 256,
        int8: bool = False,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine = make_engine(janus, images=images, int8=int8)
        loaded = describe(janus, self.engine, images=images, int8=int8)
        super().__init__(loaded, ThreadLink(self.engine), queue_limit=queue_limit, on_death=on_death)


def make_engine(janus: Janus, *, images: int, int8: bool) -> Engine:
    """An engine; with `int8` the model lets go of its matrices."""
    engine = Engine(janus, images=images, int8=int8)
    if int8:
        let_go(janus.network)
    return engine


def describe(janus: Janus, engine: Engine, *, images: int, int8: bool) -> Loaded:
    """What a backend needs to know of an engine and its model."""
    info = ModelInfo(janus.name, janus.image_size, janus.image_tokens, janus.codebook_size, janus.recipe, int8)
    return Loaded(info, janus.tokenizer, janus.max_prompt_tokens, images, engine.held_bytes)


class ThreadLink:
    """An engine's loop in a thread of this process."""

    def __init__(self, engine: Engine) -> None:
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._messages: SimpleQueue[Report | Died | None] = SimpleQueue()
        self._killed = False
        loop = EngineLoop(engine, self._commands, self._messages.put)
        self._thread = threading.Thread(target=self._run, args=(loop,), name="engine", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        """See `serve.dispatcher.Link`."""
        self._commands.put(command)

    def receive(self) -> Report | Died | None:
        """See `serve.dispatcher.Link`."""
        return self._messages.get()

    def kill(self) -> None:
        """See `serve.dispatcher.Link`. A thread cannot be ended: it is left to itself."""
        self._killed = True
        self._messages.put(Died("the engine was given up"))

    def close(self) -> None:
        """See `serve.dispatcher.Link`."""
        if not self._killed:
            self._thread.join()

    def _run(self, loop: EngineLoop) -> None:
        loop.run()
        self._messages.put(None)
