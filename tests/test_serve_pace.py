"""The host's lead over a GPU. Its events are replaced by ones that happen when the test says so."""

from typing import Any

import pytest
import torch

from bench.cuda.micro import micro_janus
from model.params import SamplingParams
from serve.engine.engine import Engine
from serve.engine.job import Job
from serve.engine.pace import StreamPace


class Device:
    """Reaches its events one after the other, each at a time of its own; waiting for one makes it be reached."""

    def __init__(self, ends: list[float]) -> None:
        self.ends, self.recorded, self.reached = ends, 0, 0
        self.waits: list[int] = []

    def event(self, **_: Any) -> "Event":
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.number = device, -1

    def record(self) -> None:
        self.number = self.device.recorded
        self.device.recorded += 1

    def query(self) -> bool:
        return self.number < self.device.reached

    def synchronize(self) -> None:
        if not self.query():
            self.device.waits.append(self.number)
        self.device.reached = max(self.device.reached, self.number + 1)

    def elapsed_time(self, later: "Event") -> float:
        """Milliseconds, as PyTorch's."""
        assert self.query()
        assert later.query()
        return 1000 * (self.device.ends[later.number] - self.device.ends[self.number])


def test_the_host_is_two_steps_ahead_and_learns_what_each_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps end at 1, 3, 6, … seconds; the host's own seconds do not count. The first step has none before it."""
    device = Device([1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    pace, known = StreamPace(), []
    for number in range(5):
        pace.begin()
        assert device.reached == max(0, number - 1)
        known.append(pace.end(number if number != 2 else None, seconds=99.0))
    assert device.waits == [0, 1, 2]
    assert known == [[], [], [], [(1, 2.0)], []]
    device.reached = 5
    pace.begin()
    assert pace.end(None, 99.0) == [(3, 4.0), (4, 5.0)]


@pytest.mark.parametrize("jacobi", [False, True])
def test_an_engine_keeps_the_pace(jacobi: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows and without: no step is begun before the last but one is over."""
    device = Device([])
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(device, "ends", [float(n) for n in range(100)])
    engine = Engine(micro_janus(), slots=1, jacobi=jacobi)
    engine._pace = StreamPace()
    engine.submit(Job([1, 5, 6], None, (0,), SamplingParams(1, 0)))
    while not engine.idle:
        engine.step()
        assert device.recorded - device.reached <= 2
    assert device.recorded >= 3
