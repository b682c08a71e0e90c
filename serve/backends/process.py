"""An engine's process, seen from the server. Imports no torch; `serve.backends.child` is the other side."""

from multiprocessing.connection import Connection

from model.errors import CheckpointError, NoRoom
from serve.backends.messages import Died, Loaded, LoadModel, Report
from serve.child_process import ChildProcess, ProcessEnded


class EngineProcess(ChildProcess):
    """A new process for an engine, and the link to it (`serve.backends.engine_backend.Link`)."""

    def __init__(self) -> None:
        super().__init__(_run, name="engine")

    def load(self, order: LoadModel) -> Loaded:
        """Load a model; must be the first call. Blocks.

        Raises:
            NoRoom: it needs more memory than there is, or the process was killed over it.
            CheckpointError: it cannot be loaded.
        """
        try:
            self.send(order)
            answer = super().receive()
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Loaded)
            return answer
        except ProcessEnded as ended:
            self.close()
            kind = NoRoom if ended.killed else CheckpointError
            raise kind(f"{order.source.name} was not loaded: {_ended(ended)}") from None
        except BaseException:
            self.close()
            raise

    def receive(self) -> Report | Died | None:
        """See `Link`."""
        try:
            message = super().receive()
        except ProcessEnded as ended:
            return Died(_ended(ended))
        assert message is None or isinstance(message, Report | Died)
        return message


def _ended(how: ProcessEnded) -> str:
    return f"the engine's process ended {how}"


def _run(connection: "Connection[object, object]") -> None:
    from serve.backends.child import run  # imports torch, which the server does without

    run(connection)
