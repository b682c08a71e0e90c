"""`draw`, for use without a server: each image comes once, as in the reference loop, and no job is left behind."""

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


def test_each_image_comes_once_and_equals_the_reference(deepseek: Janus, prompts: list[list[int]]) -> None:
    jobs = [job(prompt, GREEDY, *range(2 + number)) for number, prompt in enumerate(prompts)]
    drawn = {(one, event.index): event for one, event in draw(Engine(deepseek, slots=2, jacobi=False), jobs)}
    assert set(drawn) == {(one, index) for one in jobs for index in range(one.images)}
    for one in jobs:
        codes = generate(deepseek, [one.prompt] * one.images, seeds=one.seeds, guidance_scale=3, temperature=0)
        pictures = ImageTokenizer(deepseek).images(codes).numpy()
        for index in range(one.images):
            event = drawn[one, index]
            assert isinstance(event, Finished)
            assert event.codes == tuple(codes[index].tolist())
            assert event.picture.tobytes() == pictures[index].tobytes()


def test_images_are_yielded_while_others_are_still_drawn(deepseek: Janus, prompts: list[list[int]]) -> None:
    """Seven images on two slots: the engine is still busy when each of the first six is yielded."""
    engine = Engine(deepseek, slots=2, jacobi=False)
    jobs = [job(prompts[0], GREEDY, *range(6)), job(prompts[1], GREEDY, 1)]
    assert [engine.idle for _ in draw(engine, jobs)] == [False] * 6 + [True]


def test_progress_counts_codes_of_unfinished_images_too(deepseek: Janus, prompts: list[list[int]]) -> None:
    counts: list[int] = []
    jobs = [job(prompt, GREEDY, 1) for prompt in prompts]
    list(draw(Engine(deepseek, slots=2, jacobi=False), jobs, on_step=counts.append))
    tokens = deepseek.image_tokens
    assert counts == [2 * step for step in range(1, tokens + 1)] + [2 * tokens + step for step in range(1, tokens + 1)]


def test_endless_jobs_are_taken_as_slots_free_up_and_closing_cancels(deepseek: Janus, prompts: list[list[int]]) -> None:
    engine, taken = Engine(deepseek, slots=2, jacobi=False), 0

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
    assert len(list(draw(engine, [job(prompts[0], GREEDY, 1)]))) == 1  # the engine can be used again


def test_an_exception_in_the_iterator_of_jobs_cancels_the_rest(deepseek: Janus, prompts: list[list[int]]) -> None:
    engine = Engine(deepseek, slots=1, jacobi=False)

    def broken() -> Iterator[Job]:
        yield job(prompts[0], GREEDY, 1, 2, 3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(draw(engine, broken()))
    assert engine.idle


def test_requested_previews_are_yielded_before_the_image(deepseek: Janus, prompts: list[list[int]]) -> None:
    asking = Job(prompts[0], None, (1,), GREEDY, preview_rows=frozenset({1, 2}))
    kinds = [type(event) for _, event in draw(Engine(deepseek, slots=1, jacobi=False), [asking])]
    assert kinds == [Preview, Preview, Finished]


def test_a_failed_image_is_reported_and_others_are_finished(
    deepseek: Janus, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(deepseek, slots=2, jacobi=False)
    step = engine.decoder.step

    def poison(*arguments: object) -> Tensor:
        logits: Tensor = step(*arguments)  # type: ignore[arg-type]
        logits[0, 0] = torch.nan
        return logits

    monkeypatch.setattr(engine.decoder, "step", poison)
    jobs = [job(prompt, GREEDY, 1) for prompt in prompts[:2]]
    kinds = {one: type(event) for one, event in draw(engine, jobs)}
    assert kinds == {jobs[0]: Failed, jobs[1]: Finished}


def test_a_missed_deadline_raises_timeout_error(deepseek: Janus, prompts: list[list[int]]) -> None:
    clock = Clock()
    engine = Engine(deepseek, slots=1, jacobi=False, clock=clock)
    late = Job(prompts[0], None, (1,), GREEDY, deadline=5.0)

    def tick(_: int) -> None:
        clock.now += 1

    with pytest.raises(TimeoutError, match="deadline"):
        list(draw(engine, [late], on_step=tick))
    assert engine.idle


def test_a_job_that_is_not_due_yet_holds_nothing_up(deepseek: Janus, prompts: list[list[int]]) -> None:
    """The iterable yields None around two jobs: the second starts at the third step of the first."""
    counts: list[int] = []

    def arrive() -> Iterator[Job | None]:
        yield from (None, job(prompts[0], GREEDY, 1), None, None, job(prompts[1], GREEDY, 1), None)

    drawn = list(draw(Engine(deepseek, slots=2, jacobi=False), arrive(), on_step=counts.append))
    assert all(isinstance(event, Finished) for _, event in drawn)
    assert counts[:4] == [1, 2, 4, 6]
    assert counts[-1] == 2 * deepseek.image_tokens


def test_images_that_end_in_the_step_of_a_deadline_are_yielded(deepseek: Janus, prompts: list[list[int]]) -> None:
    """A tick for each step: the deadline of one job passes in the step in which the other job's image is complete."""
    clock = Clock()
    late = Job(prompts[0], None, (1,), GREEDY, deadline=deepseek.image_tokens - 1.0)
    in_time = job(prompts[1], GREEDY, 1)
    drawn: list[Job] = []

    def tick(_: int) -> None:
        clock.now += 1

    def draw_both() -> None:
        for one, _ in draw(Engine(deepseek, slots=2, jacobi=False, clock=clock), [late, in_time], on_step=tick):
            drawn.append(one)

    with pytest.raises(TimeoutError, match="deadline"):
        draw_both()
    assert drawn == [in_time]
