"""Work beside the steps: pictures, which no step needs."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from serve.engine.events import Event
from serve.engine.job import JobState

Events = list[tuple[JobState, Event]]
Compute = Callable[[], Sequence[Tensor]]
Then = Callable[[Sequence[Tensor], float], Events]


class SideWork:
    """Work that is done as soon as it is added; `StreamWork` does it later, where there is a GPU.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._done: deque[tuple[Sequence[Tensor], float, Then]] = deque()

    @property
    def idle(self) -> bool:
        """Whether all that was added has been collected."""
        return not self._done

    def add(self, compute: Compute, then: Then) -> None:
        """Compute tensors, for events of a later `collect`.

        Args:
            compute: must not read anything that a later step changes.
            then: makes the events of the tensors, on the CPU, and of the seconds that they took.
        """
        begun = self._clock()
        tensors = compute()
        self._done.append((tensors, self._clock() - begun, then))

    def collect(self, *, wait: bool) -> Events:
        """Events of the work that is done, in the order in which it was added.

        Args:
            wait: whether to wait until the oldest is done.
        """
        events: Events = []
        while self._done:
            tensors, seconds, then = self._done.popleft()
            events += then(tensors, seconds)
        return events


class _Open(NamedTuple):
    """Work that is on its way. `held` keeps the memory that it uses from being taken by the steps."""

    begun: torch.cuda.Event
    ended: torch.cuda.Event
    copies: Sequence[Tensor]
    held: tuple[object, ...]
    then: Then


class StreamWork(SideWork):
    """Work on a CUDA stream of its own, with the lowest priority: steps go on meanwhile, and the host waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._open: deque[_Open] = deque()

    @property
    def idle(self) -> bool:
        return not self._open

    def add(self, compute: Compute, then: Then) -> None:
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            begun.record()
            tensors = compute()
            copies = [torch.empty_like(one, device="cpu", pin_memory=True) for one in tensors]
            for copy, one in zip(copies, tensors, strict=True):
                copy.copy_(one, non_blocking=True)
            ended.record()
        self._open.append(_Open(begun, ended, copies, (compute, tensors), then))

    def collect(self, *, wait: bool) -> Events:
        events: Events = []
        while self._open and (wait or self._open[0].ended.query()):  # type: ignore[no-untyped-call]
            oldest, wait = self._open.popleft(), False
            oldest.ended.synchronize()
            events += oldest.then(oldest.copies, oldest.begun.elapsed_time(oldest.ended) / 1000)
        return events
