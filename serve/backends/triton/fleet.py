"""The Triton servers of one model, and which of them draws next. Imports no torch."""

import asyncio
import logging
from collections.abc import Collection, Sequence

from serve.backends.triton.server import TritonServer
from serve.backends.triton.wire import Description

logger = logging.getLogger("focusdiff")
_OTHER_MODEL = "its model has other prompts or pictures than before; a front must be started anew for it"


class NoServer(Exception):
    """No server is ready; the message has the trouble of each."""


class Fleet:
    """Used on one event loop; its properties also from other threads.

    Args:
        urls: host:port of the servers.
        model: name in Triton.
        silence_seconds: see `TritonServer`.
    """

    def __init__(self, urls: Sequence[str], model: str, *, silence_seconds: float) -> None:
        self._changed = asyncio.Event()
        self.description: Description | None = None  # of the server that became ready last, among those used
        self.servers = [
            TritonServer(url, model, silence_seconds=silence_seconds, on_change=self._take_change) for url in urls
        ]
        self._watching = [asyncio.create_task(server.watch()) for server in self.servers]

    @property
    def ready(self) -> list[TritonServer]:
        """Servers that draw, and whose model has the same prompts and pictures."""
        return [server for server in self.servers if server.pulse.ready and self._agrees(server)]

    @property
    def trouble(self) -> str:
        """Why servers are not used."""
        troubles = {
            server.url: server.trouble or ("" if self._agrees(server) else _OTHER_MODEL) for server in self.servers
        }
        return "; ".join(f"{url}: {trouble}" for url, trouble in troubles.items() if trouble)

    @property
    def unknown(self) -> bool:
        """Whether all servers that answer have no such model."""
        reached = [server for server in self.servers if server.reached]
        return bool(reached) and all("is not found" in server.trouble for server in reached)

    async def choose(self, refused: Collection[TritonServer], *, seconds: float) -> TritonServer | None:
        """The ready server with the fewest unfinished images of ours; None if all ready ones are in `refused`.

        Raises:
            NoServer: none became ready within `seconds`.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self.ready:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise NoServer(self.trouble) from None
        left = [server for server in self.ready if server not in refused]
        return min(left, key=lambda server: server.unfinished, default=None)

    async def close(self) -> None:
        """End the connections; no job is drawn any more."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for server in self.servers:
            await server.close()

    def _take_change(self, server: TritonServer) -> None:
        if server.pulse.ready:
            if self.description is None or self._agrees(server):
                self.description = server.description
            else:
                logger.error("%s is not used: %s", server.url, _OTHER_MODEL)
        self._changed.set()

    def _agrees(self, server: TritonServer) -> bool:
        """Whether jobs for the described model suit a server's; weights and sampling settings may differ."""
        ours, theirs = self.description, server.description
        return ours is not None and theirs is not None and ours.interface == theirs.interface
