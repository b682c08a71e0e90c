"""Jobs between those who ask and an engine's loop: what is counted, and what everybody hears when a step fails."""

import threading
from collections.abc import Mapping
from pickle import UnpicklingError

import pytest
import torch
from torch import Tensor

from model.janus import Janus
from model.params import SamplingParams
from serve.dispatcher import Dispatcher, NotRunning
from serve.engine import Engine
from serve.events import Event, Failed, Finished
from serve.local_backend import ThreadLink
from serve.messages import Command, Died, Report
from serve.request import Job

PARAMS = SamplingParams(guidance_scale=2, temperature=1, top_k=0)


class Listener:
    """Keeps what it hears, and knows when all of it has come."""

    def __init__(self, images: int) -> None:
        self.events: list[Event] = []
        self.done = threading.Event()
        self._unended = images

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Finished | Failed):
            self._unended = 0 if isinstance(event, Failed) and event.index is None else self._unended - 1
        if self._unended == 0:
            self.done.set()


@pytest.fixture(scope="module")
def prompt(golden: Mapping[str, Tensor]) -> list[int]:
    ids: list[int] = golden["prompt0.input_ids"].tolist()
    return ids


@pytest.mark.parametrize("defect", ["exception", "out of memory"])
def test_a_step_that_fails_fails_everyone_with_a_reason(
    deepseek: Janus, prompt: list[int], monkeypatch: pytest.MonkeyPatch, defect: str
) -> None:
    engine = Engine(deepseek, images=2)
    step, count = engine.decoder.step, 0

    def break_down(*arguments: object) -> Tensor:
        nonlocal count
        count += 1
        if count == 5:
            if defect == "out of memory":
                return torch.empty(2**60)  # the allocator's own refusal
            raise ZeroDivisionError("planted")
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.decoder, "step", break_down)
    deaths = []
    died = threading.Event()
    dispatcher = Dispatcher(
        ThreadLink(engine), queue_limit=100, on_death=lambda: (deaths.append(dispatcher.state), died.set())
    )
    listeners = [Listener(2) for _ in range(5)]  # ten images: two run, eight wait
    for number, listener in enumerate(listeners):
        dispatcher.submit(Job(prompt, None, (number, number + 100), PARAMS), listener)
    for listener in listeners:
        assert listener.done.wait(60)
        last = listener.events[-1]
        assert isinstance(last, Failed)
        assert (last.index, last.cause) == (None, "engine died")
        assert ("RuntimeError" if defect == "out of memory" else "ZeroDivisionError") in last.reason
    assert died.wait(60)
    assert deaths == ["dead"]
    with pytest.raises(NotRunning, match="dead"):
        dispatcher.submit(Job(prompt, None, (1,), PARAMS), Listener(1))
    dispatcher.close()  # does not hang


def test_the_queue_is_counted_in_images_and_returns_to_nothing(deepseek: Janus, prompt: list[int]) -> None:
    dispatcher = Dispatcher(ThreadLink(Engine(deepseek, images=1)), queue_limit=1000, on_death=lambda: None)
    listeners = [Listener(3) for _ in range(4)]
    tickets = [dispatcher.submit(Job(prompt, None, (1, 2, 3), PARAMS), listener) for listener in listeners]
    dispatcher.cancel(tickets[1])
    dispatcher.cancel(tickets[3])
    dispatcher.cancel(tickets[3])
    for listener in (listeners[0], listeners[2]):
        assert listener.done.wait(60)
        assert sum(isinstance(event, Finished) for event in listener.events) == 3
    dispatcher.close()
    assert dispatcher.load == (0, 0)
    assert not any(isinstance(event, Finished) for event in listeners[3].events)


class Garbled:
    """A link over which nothing comes that can be understood."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.ended = False

    def send(self, command: Command) -> None:
        self.asked.set()

    def receive(self) -> Report | Died | None:
        self.asked.wait()
        raise UnpicklingError("planted")

    def kill(self) -> None:
        self.ended = True

    def close(self) -> None: ...


def test_an_engine_that_is_not_understood_is_ended_and_everyone_hears_of_it(prompt: list[int]) -> None:
    link, died = Garbled(), threading.Event()
    dispatcher = Dispatcher(link, queue_limit=10, on_death=died.set)
    listener = Listener(2)
    dispatcher.submit(Job(prompt, None, (1, 2), PARAMS), listener)
    assert listener.done.wait(60)
    assert listener.events == [Failed(None, "engine died", "the engine is not understood: UnpicklingError")]
    assert died.wait(60)
    assert (dispatcher.state, dispatcher.load, link.ended) == ("dead", (0, 0), True)
    dispatcher.close()
