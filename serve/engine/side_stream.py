"""Streams beside the one that steps are computed on."""

import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Work(Generic[T]):
    """Work that is over; on a GPU, that is on its way."""

    def __init__(self, result: T, seconds: float) -> None:
        self._result = result
        self._seconds = seconds

    @property
    def result(self) -> T:
        """Complete when the work is over, and, for steps, after `join`."""
        return self._result

    @property
    def over(self) -> bool:
        return True

    @property
    def seconds(self) -> float:
        """Seconds that the work took; known when it is over."""
        return self._seconds

    def wait(self) -> None:
        """Wait until it is over."""

    def join(self, tensors: Iterable[Tensor]) -> None:
        """Let the steps wait until it is over; the host need not.

        Args:
            tensors: of the result, all those that steps will read.
        """


class SideStream:
    """Work is done as soon as it is given: a CPU's way. `CudaSideStream` does it beside the steps.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def run(self, compute: Callable[[], T]) -> Work[T]:
        """Begin work.

        Args:
            compute: must not read anything that a later step changes; what it reads must be held until the work is over.
        """
        begun = self._clock()
        result = compute()
        return Work(result, self._clock() - begun)


class CudaSideStream(SideStream):
    """A CUDA stream of the lowest priority: steps go on meanwhile, and the host waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, compute: Callable[[], T]) -> Work[T]:
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            begun.record()
            result = compute()
            ended.record()
        return _CudaWork(result, begun, ended, self._stream.device)


class _CudaWork(Work[T]):
    def __init__(self, result: T, begun: torch.cuda.Event, ended: torch.cuda.Event, device: torch.device) -> None:
        self._result = result
        self._begun, self._ended, self._device = begun, ended, device

    @property
    def over(self) -> bool:
        return bool(self._ended.query())  # type: ignore[no-untyped-call]

    @property
    def seconds(self) -> float:
        return float(self._begun.elapsed_time(self._ended)) / 1000

    def wait(self) -> None:
        self._ended.synchronize()

    def join(self, tensors: Iterable[Tensor]) -> None:
        steps = torch.cuda.current_stream(self._device)
        steps.wait_event(self._ended)
        for tensor in tensors:
            tensor.record_stream(steps)  # or other work could get its memory while steps still read it
