"""Previews come at the rows asked for and take a limited share of the time of other images."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from torch import Tensor

from model.janus import Janus
from serve.engine.engine import Engine
from serve.engine.events import Finished, Preview
from serve.engine.job import Job
from tests.drawing import GREEDY, Clock, run


@pytest.fixture(scope="module")
def prompts(golden: Mapping[str, Tensor]) -> list[list[int]]:
    return [golden[f"prompt{i}.input_ids"].tolist() for i in range(3)]


def test_previews_come_in_order_of_rows_before_the_image(deepseek: Janus, prompts: list[list[int]]) -> None:
    engine = Engine(deepseek, slots=2, jacobi=False)
    rows = frozenset(range(1, deepseek.grid))
    engine.submit(Job(prompts[0], None, (1, 2), GREEDY, preview_rows=rows))
    events = [event for _ in range(1000) if not engine.idle for _, event in engine.step()]
    for index in (0, 1):
        seen = [e for e in events if isinstance(e, Preview | Finished) and e.index == index]
        assert [e.rows for e in seen if isinstance(e, Preview)] == sorted(rows)
        assert isinstance(seen[-1], Finished)


def test_previews_take_a_small_share_of_the_time_of_other_images(
    deepseek: Janus, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps take 1 s, previews 4 s: alone, every preview is made; beside others, at most 5 %, about one in 80 steps."""
    clock, made = Clock(), []
    engine = Engine(deepseek, slots=2, clock=clock)
    step, previews = engine.decoder.step, engine.image_tokenizer.previews

    def slow_step(*arguments: object) -> Tensor:
        clock.now += 1
        return step(*arguments)  # type: ignore[arg-type]

    def slow_preview(codes: Tensor, rows: Sequence[int]) -> Tensor:
        clock.now += 4
        made.append(clock.now)
        return previews(codes, rows)

    monkeypatch.setattr(engine.decoder, "step", slow_step)
    monkeypatch.setattr(engine.image_tokenizer, "previews", slow_preview)
    wish = Job(prompts[0], None, (1,), GREEDY, preview_rows=frozenset(range(1, deepseek.grid)))
    run(engine, [(0, wish)])
    assert len(made) == deepseek.grid - 1
    made.clear()
    began = clock.now
    run(engine, [(0, wish), (0, wish)] * 4)
    saved = engine._preview_budget._each or 0.0  # allowed for what was saved before; one more preview may exceed it
    assert 0 < 4 * len(made) <= 0.05 * (clock.now - began) + saved + 4


def test_images_that_reach_a_row_together_share_the_preview_budget(
    deepseek: Janus, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six images: at 4 s only one preview fits the budget; at 0.01 s one is made to learn the cost, then all six."""
    for seconds, expected in ((4.0, [1]), (0.01, [1, 6])):
        clock = Clock()
        engine = Engine(deepseek, slots=6, clock=clock)
        step = engine.decoder.step
        made: list[int] = []

        def slow_step(*arguments: object, step: Any = step, clock: Clock = clock) -> Tensor:
            clock.now += 1
            return step(*arguments)  # type: ignore[no-any-return]

        def slow_preview(
            codes: Tensor,
            rows: Sequence[int],
            seconds: float = seconds,
            clock: Clock = clock,
            made: list[int] = made,
            previews: Any = engine.image_tokenizer.previews,
        ) -> Tensor:
            clock.now += seconds * len(rows)
            made.append(len(rows))
            return previews(codes, rows)  # type: ignore[no-any-return]

        monkeypatch.setattr(engine.decoder, "step", slow_step)
        monkeypatch.setattr(engine.image_tokenizer, "previews", slow_preview)
        heard = run(
            engine, [(0, Job(prompts[0], None, (i,), GREEDY, preview_rows=frozenset({1, 2}))) for i in range(6)]
        )
        assert made == expected
        given = [sum(isinstance(event, Preview) for event in events) for events in heard]
        assert sorted(given, reverse=True) == ([1, 0, 0, 0, 0, 0] if seconds == 4 else [2, 1, 1, 1, 1, 1])
