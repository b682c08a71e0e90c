"""Models on Triton servers into backends. Imports no torch."""

import logging
import math
import time

from model.errors import CheckpointError
from serve.backends.triton.backend import TritonBackend
from serve.backends.triton.fleet import Fleet
from serve.backends.triton.loop_thread import grpc_loop
from serve.backends.triton.names import triton_name
from serve.settings.model_source import ModelSource
from serve.settings.server import Settings

logger = logging.getLogger("focusdiff")
_POLL_SECONDS = 0.1
_LOG_SECONDS = 30.0
_LOAD_SECONDS = 30.0  # for a model that is loaded while the server runs


class TritonLoader:
    """Connects models to the servers that draw them; called from one thread at a time. `source` is the Triton name.

    Args:
        settings: servers.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopped = False
        self._starting = len(settings.models)  # models that the server waits for when it starts, however long

    def __call__(self, source: ModelSource) -> TritonBackend:
        """Wait until a server is ready to draw a model, and return its backend.

        Raises:
            CheckpointError: no server has such a model, or the server is stopping.
        """
        limit = math.inf if self._starting > 0 else _LOAD_SECONDS
        self._starting -= 1
        loop = grpc_loop()
        fleet = loop.run(self._connect(source))
        try:
            self._wait(fleet, source, limit)
        except BaseException:
            loop.run(fleet.close())
            raise
        return TritonBackend(source.name, fleet, loop)

    def stop(self) -> None:
        """End a load that is under way, which then fails; from any thread."""
        self._stopped = True

    async def _connect(self, source: ModelSource) -> Fleet:
        settings = self._settings
        return Fleet(settings.triton_url, triton_name(source.source), silence_seconds=settings.triton_silence_seconds)

    def _wait(self, fleet: Fleet, source: ModelSource, limit: float) -> None:
        begun = logged = time.monotonic()
        while not fleet.ready:
            if self._stopped:
                raise CheckpointError(f"{source.name} was not loaded: the server is stopping")
            if fleet.unknown:
                raise CheckpointError(f"no model {triton_name(source.source)!r} there: {fleet.trouble}")
            if time.monotonic() - begun > limit:
                raise CheckpointError(f"{source.name}: no server is ready to draw it: {fleet.trouble}")
            if time.monotonic() - logged > _LOG_SECONDS:
                logged = time.monotonic()
                logger.warning("waiting for %s: %s", source.name, fleet.trouble)
            time.sleep(_POLL_SECONDS)
