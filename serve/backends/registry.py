"""The models of a server by name: which are served, and how one takes another's place under load."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from serve.backends.errors import LastModel, NameTaken, NoModel, UnknownModel
from serve.backends.protocol import Backend
from serve.settings.model_source import ModelSource

logger = logging.getLogger("focusdiff")

ServerState = Literal["ready", "loading", "unreachable", "draining", "dead"]
Loader = Callable[[ModelSource], Backend]  # blocks; raises ValueError with a message for people


@dataclass(frozen=True)
class Served:
    """A served model: its source, its backend, and since when (seconds of the epoch)."""

    source: ModelSource
    backend: Backend
    since: int = field(default_factory=lambda: int(time.time()))


class Registry:
    """Served models by name; used on the event loop only.

    A name's backend is replaced in one step, and closed only when it can no longer be found. It finishes the jobs it
    has accepted, so no request fails.

    Args:
        loader: makes a backend; called in a thread.
        aliases: other names of models.
        stop_loading: ends a load that is under way, which then fails.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        aliases: Mapping[str, str] = MappingProxyType({}),
        stop_loading: Callable[[], None] = lambda: None,
    ) -> None:
        self._loader = loader
        self._stop_loading = stop_loading
        self._aliases = dict(aliases)
        self._served: dict[str, Served] = {}
        self._closing: dict[asyncio.Task[None], Served] = {}
        self._changing = asyncio.Lock()
        self.loading = False  # whether models that the server was started with are still to come
        self._draining = False

    @property
    def state(self) -> ServerState:
        """Dead if any engine is: a supervisor must restart the process then. Unreachable if no model can be drawn."""
        if any(served.backend.state == "dead" for served in self.all):
            return "dead"
        if self._draining:
            return "draining"
        if not self._served or self.loading:
            return "loading"
        unreachable = all(served.backend.state == "unreachable" for served in self._served.values())
        return "unreachable" if unreachable else "ready"

    @property
    def accepting(self) -> bool:
        """Whether loaded models are given new jobs: not while the server is stopping."""
        return bool(self._served) and not self._draining

    @property
    def served(self) -> Mapping[str, Served]:
        """Served models by name, in the order of loading."""
        return MappingProxyType(self._served)

    @property
    def all(self) -> list[Served]:
        """Served models, and those that are closing but still finish accepted jobs."""
        return [*self._served.values(), *self._closing.values()]

    @property
    def busy(self) -> bool:
        """Whether any accepted job is unfinished."""
        return any(one.backend.stats.running or one.backend.stats.waiting for one in self.all)

    def aliases_of(self, name: str) -> list[str]:
        return [alias for alias, meant in self._aliases.items() if meant == name]

    def find(self, name: str | None) -> Served:
        """The model of a name or alias; None means the first model.

        Raises:
            UnknownModel: no such model.
            NoModel: none is loaded, or the server is stopping.
        """
        if not self.accepting:
            raise NoModel("the server is stopping" if self._draining else "no model is loaded")
        if name is None:
            return next(iter(self._served.values()))
        served = self._served.get(self._aliases.get(name, name))
        if served is None:
            raise UnknownModel(name, [*self._served, *self._aliases])
        return served

    def add(self, source: ModelSource, backend: Backend) -> None:
        """Serve a backend that was made elsewhere."""
        self._served[source.name] = Served(source, backend)

    async def load(self, source: ModelSource, *, replace: bool = False) -> Served:
        """Load a model and serve it; with `replace`, in place of the one of that name.

        Raises:
            NameTaken: a model of that name is loaded.
            ValueError: it cannot be loaded, or there is no memory for it; the message says why.
        """
        async with self._changing:
            if source.name in self._served and not replace:
                raise NameTaken(f"{source.name!r} is loaded already: unload it, or ask to replace it")
            backend = await asyncio.to_thread(self._loader, source)
            before = self._served.get(source.name)
            self.add(source, backend)
            if before is not None:
                self._close(before)
            logger.info("serving %s from %s", source.name, source.source)
            return self._served[source.name]

    async def unload(self, name: str) -> None:
        """Stop serving a model; it finishes the jobs it has accepted.

        Raises:
            UnknownModel: no such model.
            LastModel: it is the only one.
        """
        async with self._changing:
            if name not in self._served:
                raise UnknownModel(name, self._served)
            if len(self._served) == 1:
                raise LastModel(f"{name!r} is the only model")
            self._close(self._served.pop(name))
            logger.info("no longer serving %s", name)

    def drain(self) -> None:
        """Accept no more jobs and load no more models."""
        self._draining = True
        self._stop_loading()

    def abandon(self) -> None:
        """End every accepted job with a reason."""
        for served in self.all:
            served.backend.abandon()

    def kill(self) -> None:
        """End all engines at once."""
        for served in self.all:
            served.backend.kill()

    async def close(self) -> None:
        """Finish the accepted jobs and free all devices."""
        self.drain()
        await asyncio.gather(*[asyncio.to_thread(served.backend.close) for served in self._served.values()])
        await asyncio.gather(*self._closing)

    def _close(self, served: Served) -> None:
        task = asyncio.create_task(asyncio.to_thread(served.backend.close))
        self._closing[task] = served
        task.add_done_callback(self._closing.pop)
