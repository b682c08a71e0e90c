"""The order of work on a GPU's streams, whose calls are written down instead."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serve.engine.side_stream import CudaSideStream


class Recorder:
    """Streams and events that write down what is given to which stream."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.steps = self.stream("steps")
        self.current = self.steps
        self.events = 0

    def stream(self, name: str) -> Any:
        return SimpleNamespace(
            name=name,
            device="cuda:0",
            wait_stream=lambda other: self.calls.append((name, f"wait for {other.name}")),
            wait_event=lambda event: self.calls.append((name, f"wait for {event.name}")),
        )

    def event(self, **_: Any) -> Any:
        name = f"event {self.events}"
        self.events += 1
        return SimpleNamespace(name=name, record=lambda: self.calls.append((self.current.name, name)))

    def tensor(self, name: str) -> Any:
        return SimpleNamespace(record_stream=lambda stream: self.calls.append((stream.name, f"reads {name}")))

    @contextmanager
    def use(self, stream: Any) -> Iterator[None]:
        self.current = stream
        yield
        self.current = self.steps


def test_a_side_stream_reads_what_steps_wrote_and_steps_read_what_it_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps wait for nothing before they join, and then for the end of the work."""
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: recorder.stream("side"))
    monkeypatch.setattr(torch.cuda, "Event", recorder.event)
    monkeypatch.setattr(torch.cuda, "stream", recorder.use)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: recorder.current)

    def compute() -> list[Any]:
        recorder.calls.append((recorder.current.name, "compute"))
        return [recorder.tensor("keys"), recorder.tensor("values")]

    work = CudaSideStream(torch.device("cuda")).run(compute)
    begun = [("side", "wait for steps"), ("side", "event 0"), ("side", "compute"), ("side", "event 1")]
    assert recorder.calls == begun
    work.join(work.result)
    joined = [("steps", "wait for event 1"), ("steps", "reads keys"), ("steps", "reads values")]
    assert recorder.calls == begun + joined
