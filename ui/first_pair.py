"""The example pair that a visitor sees before drawing anything."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from ui.api import Model
from ui.board import Board
from ui.examples import FIRST
from ui.settings import Comparison

_SEED = 7  # with it the shipped models differ: tiny-base draws four circles for three


def baseline_and_model(names: Sequence[str]) -> tuple[str, ...]:
    """The models that the page compares at first: the last and the first of the server's, or its only one."""
    return (names[-1], names[0]) if len(names) > 1 else tuple(names)


class FirstPair:
    """The board of the example pair, drawn once for all visitors; drawn again after a model has been replaced."""

    def __init__(self) -> None:
        self._models: tuple[tuple[str, int], ...] = ()
        self._drawing: _Drawing | None = None

    async def html(
        self, models: Mapping[str, Model], draw: Callable[[Comparison], AsyncIterator[Board]]
    ) -> AsyncIterator[list[str]]:
        """Yield the board's HTML pieces as it fills.

        Args:
            models: of the server, by name.
            draw: yields the board as it fills.

        Raises:
            ApiFailure: it cannot be drawn now.
        """
        names = baseline_and_model(list(models))
        key = tuple((name, models[name].since) for name in names)
        if self._drawing is None or self._drawing.failed() or self._models != key:
            self._models = key
            self._drawing = _Drawing(draw(Comparison(FIRST.first, FIRST.second, names, 1, seed=_SEED)))
        async for html in self._drawing.states():
            yield html


class _Drawing:
    """A board that fills in a task of its own: a visitor who leaves does not stop it for the others."""

    def __init__(self, boards: AsyncIterator[Board]) -> None:
        self._html: list[str] = []
        self._changed = asyncio.Event()  # replaced at each change
        self._task = asyncio.create_task(self._fill(boards))
        self._task.add_done_callback(self._announce)

    async def _fill(self, boards: AsyncIterator[Board]) -> None:
        async for board in boards:
            self._html = board.html()
            self._announce()

    def _announce(self, _: object = None) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def failed(self) -> bool:
        """Whether it ended before the board was complete."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    async def states(self) -> AsyncIterator[list[str]]:
        """Yield the board as it is and at each change, until it is complete."""
        while not self._task.done():
            changed = self._changed
            if self._html:
                yield self._html
            await changed.wait()
        await self._task  # raises what ended it
        yield self._html
