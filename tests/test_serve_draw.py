"""The offline entrance: every image once, as the reference draws it, and nothing left behind."""

import itertools
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Failed, Finished, Preview
from serve.engine.job import Job
from tests.drawing import GREEDY, Clock, job


@pytest.fixture(scope="module")
def prompts(golden: Mapping[str, Tensor]) -> list[list[int]]:
    return [golden[f"prompt{i}.input_ids"].tolist() for i in range(3)]


def test_every_image_comes_once_and_is_the_references(deepseek: Janus, prompts: list[list[int]]) -> None:
    jobs = [job(prompt, GREEDY, *range(2 + number)) for number, prompt in enumerate(prompts)]
    drawn = {(one, event.index): event for one, event in draw(Engine(deepseek, slots=2), jobs)}
    assert set(drawn) == {(one, index) for one in jobs for index in range(one.images)}
    for one in jobs:
        codes = generate(deepseek, [one.prompt] * one.images, seeds=one.seeds, guidance_scale=3, temperature=0)
        pictures = ImageTokenizer(deepseek).images(codes).numpy()
        for index in range(one.images):
            event = drawn[one, index]
            assert isinstance(event, Finished)
            assert event.codes == tuple(codes[index].tolist())
            assert event.picture.tobytes() == pictures[index].tobytes()


def test_short_jobs_do_not_wait_for_long_ones(deepseek: Janus, prompts: list[list[int]]) -> None:
    """Images come in the order of completion, while others are still being drawn."""
    engine = Engine(deepseek, slots=2)
    long, short = job(prompts[0], GREEDY, *range(6)), job(prompts[1], GREEDY, 1)
    seen = [(one, engine.idle) for one, _ in draw(engine, [long, short])]
    assert [one for one, _ in seen].index(short) < len(seen)
    assert [idle for _, idle in seen][:-2] == [False] * (len(seen) - 2)


def test_progress_counts_codes_of_unfinished_images_too(deepseek: Janus, prompts: list[list[int]]) -> None:
    counts: list[int] = []
    jobs = [job(prompt, GREEDY, 1) for prompt in prompts]
    list(draw(Engine(deepseek, slots=2), jobs, on_step=counts.append))
    tokens = deepseek.image_tokens
    assert counts == [2 * step for step in range(1, tokens + 1)] + [2 * tokens + step for step in range(1, tokens + 1)]


def test_endless_jobs_are_taken_as_slots_become_free_and_leaving_cancels(
    deepseek: Janus, prompts: list[list[int]]
) -> None:
    engine, taken = Engine(deepseek, slots=2), 0

    def endless() -> Iterator[Job]:
        nonlocal taken
        for taken in itertools.count(1):
            yield job(prompts[taken % 3], GREEDY, taken)

    drawing = draw(engine, endless())
    for _ in range(5):
        next(drawing)
    assert taken <= 5 + 2 * engine.slots
    drawn = [engine.idle]
    drawing.close()
    drawn.append(engine.idle)
    assert drawn == [False, True]
    assert engine.scheduler.free_rows == engine.cache.rows
    assert len(list(draw(engine, [job(prompts[0], GREEDY, 1)]))) == 1  # and it draws again


def test_an_exception_of_the_caller_cancels_the_rest(deepseek: Janus, prompts: list[list[int]]) -> None:
    engine = Engine(deepseek, slots=1)

    def broken() -> Iterator[Job]:
        yield job(prompts[0], GREEDY, 1, 2, 3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(draw(engine, broken()))
    assert engine.idle


def test_previews_come_where_they_are_asked_for(deepseek: Janus, prompts: list[list[int]]) -> None:
    asking = Job(prompts[0], None, (1,), GREEDY, preview_rows=frozenset({1, 2}))
    kinds = [type(event) for _, event in draw(Engine(deepseek, slots=1), [asking])]
    assert kinds == [Preview, Preview, Finished]


def test_an_image_that_cannot_be_drawn_is_told_and_others_go_on(
    deepseek: Janus, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(deepseek, slots=2)
    step = engine.decoder.step

    def poison(*arguments: object) -> Tensor:
        logits: Tensor = step(*arguments)  # type: ignore[arg-type]
        logits[0, 0] = torch.nan
        return logits

    monkeypatch.setattr(engine.decoder, "step", poison)
    jobs = [job(prompt, GREEDY, 1) for prompt in prompts[:2]]
    kinds = {one: type(event) for one, event in draw(engine, jobs)}
    assert kinds == {jobs[0]: Failed, jobs[1]: Finished}


def test_a_deadline_that_passes_is_an_error(deepseek: Janus, prompts: list[list[int]]) -> None:
    clock = Clock()
    engine = Engine(deepseek, slots=1, clock=clock)
    late = Job(prompts[0], None, (1,), GREEDY, deadline=5.0)

    def tick(_: int) -> None:
        clock.now += 1

    with pytest.raises(TimeoutError, match="deadline"):
        list(draw(engine, [late], on_step=tick))
    assert engine.idle
