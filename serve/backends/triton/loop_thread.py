"""The event loop of all gRPC connections of this process, in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@cache
def grpc_loop() -> "LoopThread":
    """The loop of this process: gRPC's poller is one for each process, and breaks when a loop it has served is closed."""
    return LoopThread()


class LoopThread:
    """Runs an event loop until the process ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="triton", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], object]) -> None:
        """Call a function on the loop, from any thread; returns at once."""
        self._loop.call_soon_threadsafe(work)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, from another thread. Blocks."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
