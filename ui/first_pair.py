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
    """The board of the example pair, drawn once and kept; drawn again after a model has been replaced."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, int], ...], list[str]] = {}
        self._drawing = asyncio.Lock()  # one visitor draws, the others wait for the result

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
        async with self._drawing:
            if key not in self._known:
                html: list[str] = []
                async for board in draw(Comparison(FIRST.first, FIRST.second, names, 1, seed=_SEED)):
                    html = board.html()
                    yield html
                self._known = {key: html}
        yield self._known[key]
