"""Seconds of the device and of the host."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Seconds(NamedTuple):
    """Seconds of one call on average: until the device has done it, and until the host could go on."""

    device: float
    host: float


def time_calls(call: Callable[[], object], *, device: torch.device, times: int) -> Seconds:
    """Time calls that follow each other, after one that does not count. Without a GPU both times are the same."""
    call()
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(times):
            call()
        each = (time.perf_counter() - started) / times
        return Seconds(each, each)
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begun.record()
    started = time.perf_counter()
    for _ in range(times):
        call()
    host = (time.perf_counter() - started) / times
    ended.record()
    torch.cuda.synchronize()
    return Seconds(begun.elapsed_time(ended) / 1000 / times, host)


def captured(call: Callable[[], object], *, device: torch.device) -> Callable[[], object]:
    """Capture a call in a CUDA graph, so that its launches cost nothing; without a GPU, return the call."""
    if device.type != "cuda":
        return call
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(2):  # kernels must be chosen and compiled before the capture
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph.replay
