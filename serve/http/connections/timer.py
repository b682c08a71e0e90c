"""A timer that can be started anew and stopped."""

import asyncio
from collections.abc import Callable


class Timer:
    """Calls a function after some seconds, on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    @property
    def runs(self) -> bool:
        """Whether it has been started, and not stopped."""
        return self._handle is not None

    def start(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` in `seconds`, in place of what was to be called."""
        self.stop()
        self._handle = self._loop.call_later(seconds, then)

    def stop(self) -> None:
        """Call nothing."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
