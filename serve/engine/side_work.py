"""Work beside the steps whose results go to the host: pictures, which no step needs."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from serve.engine.events import Event
from serve.engine.job import JobState
from serve.engine.side_stream import SideStream, Work

Events = list[tuple[JobState, Event]]
Compute = Callable[[], Sequence[Tensor]]
Then = Callable[[Sequence[Tensor], float], Events]


class _Open(NamedTuple):
    """Work that was not collected yet; what `compute` reads is held, or steps could get its memory."""

    work: Work[tuple[Sequence[Tensor], Sequence[Tensor]]]  # tensors on the device, and on the host
    compute: Compute
    then: Then


class SideWork:
    """Tensors that are computed on a side stream, and the events that are made of them.

    Args:
        stream: computes them.
    """

    def __init__(self, stream: SideStream) -> None:
        self._stream = stream
        self._open: deque[_Open] = deque()

    @property
    def idle(self) -> bool:
        """Whether all that was added has been collected."""
        return not self._open

    def add(self, compute: Compute, then: Then) -> None:
        """Compute tensors, for events of a later `collect`.

        Args:
            compute: must not read anything that a later step changes.
            then: makes the events of the tensors, on the CPU, and of the seconds that they took.
        """

        def both() -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            tensors = compute()
            return tensors, [_to_host(tensor) for tensor in tensors]

        self._open.append(_Open(self._stream.run(both), compute, then))

    def collect(self, *, wait: bool) -> Events:
        """Events of the work that is over, in the order in which it was added.

        Args:
            wait: whether to wait until the oldest is over.
        """
        events: Events = []
        while self._open and (wait or self._open[0].work.over):
            oldest, wait = self._open.popleft(), False
            oldest.work.wait()
            events += oldest.then(oldest.work.result[1], oldest.work.seconds)
        return events


def _to_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, as soon as the present stream is over."""
    if not tensor.is_cuda:
        return tensor.cpu()
    copy = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)
