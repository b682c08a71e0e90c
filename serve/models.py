"""The models of a server by name: which are served, and how one takes another's place while both are drawn."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from serve.backend import Backend
from serve.config import ModelSource
from serve.errors import Conflict, Unavailable, UnknownModel

logger = logging.getLogger("focusdiff")

State = Literal["ready", "loading", "draining", "dead"]
Loader = Callable[[ModelSource], Backend]  # blocks; raises ValueError with a message for people


@dataclass(frozen=True)
class Served:
    """A model that is served: where it came from, what draws it, and since when (seconds of the epoch)."""

    source: ModelSource
    backend: Backend
    since: int = field(default_factory=lambda: int(time.time()))


class Models:
    """Models by name; touched on the event loop only.

    A name's backend is replaced in one step, and closed only when nothing can find it any more: what
    it has accepted it finishes, so no request fails.

    Args:
        loader: makes a backend; called in a thread.
        aliases: other names for models.
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
        self.loading = False  # whether models are still to come that the server was started for
        self._draining = False

    @property
    def state(self) -> State:
        """Dead if any engine is, since a supervisor has to restart the process then."""
        if any(served.backend.state == "dead" for served in self.all):
            return "dead"
        if self._draining:
            return "draining"
        return "ready" if self._served and not self.loading else "loading"

    @property
    def served(self) -> Mapping[str, Served]:
        """What is served, by name, in the order of loading."""
        return MappingProxyType(self._served)

    @property
    def all(self) -> list[Served]:
        """What is served, and what has been but is finishing what it accepted."""
        return [*self._served.values(), *self._closing.values()]

    @property
    def busy(self) -> bool:
        """Whether anything that was accepted is not finished."""
        return any(one.backend.stats.running or one.backend.stats.waiting for one in self.all)

    def aliases_of(self, name: str) -> list[str]:
        """Other names of a model."""
        return [alias for alias, meant in self._aliases.items() if meant == name]

    def find(self, name: str | None, *, param: str = "model") -> Backend:
        """The backend of a name or alias; of the first model if None is given. `param` is the field that names it.

        Raises:
            UnknownModel: none is called so; the message lists those that are.
            Unavailable: there is none at all.
        """
        if not self._served or self._draining:
            raise Unavailable("the server is stopping" if self._draining else "no model is loaded")
        if name is None:
            return next(iter(self._served.values())).backend
        served = self._served.get(self._aliases.get(name, name))
        if served is None:
            known = ", ".join([*self._served, *self._aliases])
            raise UnknownModel(f"no model {name!r} here; known: {known}", param=param, code="model_not_found")
        return served.backend

    def add(self, source: ModelSource, backend: Backend) -> None:
        """Serve a backend that was made elsewhere."""
        self._served[source.name] = Served(source, backend)

    async def load(self, source: ModelSource, *, replace: bool = False) -> Served:
        """Make a model and serve it; with `replace`, in place of what has its name.

        Raises:
            Conflict: the name is taken.
            ValueError: it cannot be loaded, or there is no memory for it; the message says why.
        """
        async with self._changing:
            if source.name in self._served and not replace:
                raise Conflict(f"{source.name!r} is loaded already: unload it, or ask to replace it", param="name")
            backend = await asyncio.to_thread(self._loader, source)
            before = self._served.get(source.name)
            self.add(source, backend)
            if before is not None:
                self._close(before)
            logger.info("serving %s from %s", source.name, source.source)
            return self._served[source.name]

    async def unload(self, name: str) -> None:
        """Serve a model no longer; what it has accepted it finishes.

        Raises:
            UnknownModel: none is called so.
            Conflict: it is the last one.
        """
        async with self._changing:
            if name not in self._served:
                raise UnknownModel(f"no model {name!r} here; known: {', '.join(self._served)}", param="name")
            if len(self._served) == 1:
                raise Conflict(f"{name!r} is the only model", param="name")
            self._close(self._served.pop(name))
            logger.info("no longer serving %s", name)

    def drain(self) -> None:
        """Take no more jobs, and load no more models; what was accepted is finished."""
        self._draining = True
        self._stop_loading()

    def give_up(self) -> None:
        """Fail what was accepted and has not come, with a reason."""
        for served in self.all:
            served.backend.give_up()

    def kill(self) -> None:
        """End all engines at once."""
        for served in self.all:
            served.backend.kill()

    async def close(self) -> None:
        """Finish what was accepted and let go of all devices."""
        self.drain()
        await asyncio.gather(*[asyncio.to_thread(served.backend.close) for served in self._served.values()])
        await asyncio.gather(*self._closing)

    def _close(self, served: Served) -> None:
        task = asyncio.create_task(asyncio.to_thread(served.backend.close))
        self._closing[task] = served
        task.add_done_callback(self._closing.pop)
