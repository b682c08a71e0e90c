"""The example pair that visitors see at first: drawn once, whoever comes, leaves or fails."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from ui.api import ApiFailure, Model
from ui.board import Board
from ui.first_pair import FirstPair
from ui.settings import Comparison

MODELS = {"tiny": Model("tiny", 64, 8, {}, since=1)}


class Drawing:
    """Draws a board in two steps, the second one after `go`; counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = asyncio.Event()
        self.failure: ApiFailure | None = None

    async def __call__(self, comparison: Comparison) -> AsyncIterator[Board]:
        self.begun += 1
        start = {"models": list(comparison.models), "seeds": [7], "prompts": [comparison.first, comparison.second]}
        board = Board.begin(start, rows=8)
        yield board
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        for prompt in (0, 1):
            where = {"model": "tiny", "prompt_index": prompt, "image_index": 0, "output_format": "png"}
            board.update({"type": "image_pair.image", "b64_json": f"drawn{prompt}", **where})
        yield board


async def all_states(example: FirstPair, drawing: Drawing, models: dict[str, Model] = MODELS) -> list[str]:
    return ["".join(html) async for html in example.html(models, drawing)]


def test_a_visitor_who_leaves_stops_it_for_nobody() -> None:
    async def visits() -> None:
        example, drawing = FirstPair(), Drawing()
        leaving = example.html(MODELS, drawing)
        assert "drawn0" not in "".join(await anext(leaving))  # and is never asked again, nor closed
        other = asyncio.create_task(all_states(example, drawing))
        await asyncio.sleep(0)
        drawing.go.set()
        states = await asyncio.wait_for(other, 60)
        assert "drawn0" not in states[0]
        assert "drawn0" in states[-1]
        assert "drawn1" in states[-1]
        assert await all_states(example, drawing) == states[-1:]
        assert drawing.begun == 1

    asyncio.run(visits())


def test_it_is_drawn_again_after_a_failure_and_for_a_replaced_model() -> None:
    async def visits() -> None:
        example, drawing = FirstPair(), Drawing()
        drawing.go.set()
        drawing.failure = ApiFailure("the engine died")
        with pytest.raises(ApiFailure, match="the engine died"):
            await all_states(example, drawing)
        drawing.failure = None
        assert "drawn1" in (await all_states(example, drawing))[-1]
        assert drawing.begun == 2
        replaced = {"tiny": Model("tiny", 64, 8, {}, since=2)}
        assert "drawn1" in (await all_states(example, drawing, replaced))[-1]
        assert drawing.begun == 3

    asyncio.run(visits())
