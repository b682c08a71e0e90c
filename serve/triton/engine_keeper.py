"""An engine that is loaded again after it has died. Imports no torch."""

import logging
import threading

from serve.backends.engine_backend import EngineBackend
from serve.backends.loader import ProcessLoader
from serve.settings.engine import EngineSettings

logger = logging.getLogger("focusdiff")
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds before an attempt to load the model again


class EngineKeeper:
    """Engine of one model. Triton goes on with a model whose engine has died, so it is replaced here.

    Args:
        settings: with one model.

    Raises:
        ValueError: the model cannot be loaded.
    """

    def __init__(self, settings: EngineSettings) -> None:
        (self._source,) = settings.sources
        self._died = threading.Event()
        self._closing = threading.Event()
        self._loader = ProcessLoader(settings, on_death=self._died.set)
        self._backend = self._loader(self._source)
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    @property
    def backend(self) -> EngineBackend:
        """The latest backend; dead until the next one is loaded."""
        return self._backend

    def close(self) -> None:
        """Finish the accepted jobs and end the engine. Blocks."""
        self._closing.set()
        self._died.set()
        self._loader.stop()
        self._thread.join()
        self._backend.close()

    def _keep(self) -> None:
        while self._died.wait():
            self._died.clear()
            while self._backend.state == "dead" and not self._closing.is_set():
                self._backend.close()  # gives its memory back
                self._load_again()
            if self._closing.is_set():
                return

    def _load_again(self) -> None:
        """Load the model; tries until it succeeds or the keeper is closed."""
        pause = _PAUSE
        while not self._closing.wait(pause):
            try:
                self._backend = self._loader(self._source)
            except Exception as error:  # whatever it is, a later attempt may succeed
                pause = min(2 * pause, _LONGEST_PAUSE)
                if not self._closing.is_set():
                    logger.error("%s: the next attempt to load it is in %g s: %s", self._source.name, pause, error)
            else:
                logger.info("%s is loaded again", self._source.name)
                return
