"""Models into backends, each in a process of its own. Imports no torch."""

from collections import deque
from collections.abc import Callable

from model.errors import CheckpointError
from serve.backends.engine_backend import EngineBackend
from serve.backends.messages import LoadModel
from serve.backends.process import EngineProcess
from serve.settings.engine import EngineSettings
from serve.settings.model_source import ModelSource


class ProcessLoader:
    """Loads models, each into a new process; called from one thread at a time.

    Args:
        settings: device, dtype, slots, queue and memory.
        on_death: called once an engine has died.
    """

    def __init__(self, settings: EngineSettings, *, on_death: Callable[[], None]) -> None:
        self._settings = settings
        self._on_death = on_death
        self._open: set[EngineBackend] = set()
        self._started: deque[EngineProcess] = deque()
        self._loading: EngineProcess | None = None
        self._stopped = False

    def start_ahead(self, count: int) -> None:
        """Start processes for the next `count` models: they import what they need while the server does."""
        self._started.extend(EngineProcess() for _ in range(count))

    def __call__(self, source: ModelSource) -> EngineBackend:
        """Load a model and return its backend.

        Raises:
            NoRoom: it needs more memory than there is.
            CheckpointError: it cannot be loaded, has no tokenizer, or the server is stopping.
        """
        self._loading = process = self._started.popleft() if self._started else EngineProcess()
        if self._stopped:
            process.kill()
        loaded = process.load(self._order(source))
        self._loading = None
        if self._stopped:  # the process may have been killed after it answered
            process.close()
            raise CheckpointError(f"{source.name} was not loaded: the server is stopping")
        backend = EngineBackend(
            loaded,
            process,
            queue_limit=self._settings.queue,
            on_death=self._on_death,
            on_close=lambda: self._open.discard(backend),
        )
        self._open.add(backend)
        return backend

    def stop(self) -> None:
        """End a load that is under way, which then fails; from any thread."""
        self._stopped = True
        loading = self._loading
        if loading is not None:
            loading.kill()

    def _order(self, source: ModelSource) -> LoadModel:
        settings = self._settings
        room = None
        if settings.memory_gib is not None:
            room = int(settings.memory_gib * 2**30) - sum(backend.held_bytes for backend in tuple(self._open))
        return LoadModel(
            source,
            device=settings.device,
            dtype=settings.dtype,
            quantization=settings.quantization,
            jacobi=settings.jacobi,
            slots=settings.slots,
            room=room,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
