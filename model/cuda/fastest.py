"""The fastest product for each size: measured when an engine is made, and kept on disk."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from model.cuda.attention import multiprocessors
from model.cuda.product import Blocks, blocks_for, multiply
from model.decoder_weights import Matrix, PackedMatrix, linear
from model.quantized_matrix import QuantizedMatrix

_MOST_ROWS = 16  # of which ways are compared: more are what PyTorch's libraries are made for
_MATRICES = 8  # of a size, multiplied one after the other: a single one would stay in the cache
_TIMES = 5
_SHARE = 0.97  # of the first way's time; one that takes more is not better than noise, which would choose bfloat16's last bits
Way = Blocks | None  # None is PyTorch's


class _Size(NamedTuple):
    rows: int
    outputs: int
    inputs: int
    weights: str


class Products:
    """Products of a step. On a GPU each of few rows is done in the way that was the fastest.

    Args:
        matrices: all that a step reads.
        device: has them.
        seconds: measures calls that follow each other; only given in tests. Without a GPU nothing is measured otherwise.
        folder: of the file with what was measured; the user's cache if not given.
    """

    def __init__(
        self,
        matrices: Sequence[Matrix],
        device: torch.device,
        *,
        seconds: Callable[[Sequence[Callable[[], object]]], float] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._device = device
        self._seconds = seconds or (_seconds_on_gpu if device.type == "cuda" else None)
        self._alike: defaultdict[tuple[int, int], list[Matrix]] = defaultdict(list)
        for matrix in matrices:
            outputs, inputs = matrix.shape
            self._alike[outputs, inputs].append(matrix)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "focusdiff"
        self._file = (folder or cache) / f"products-{self._machine}.json"
        self._ways: dict[_Size, Way] = self._read()

    def __call__(self, x: Tensor, matrix: Matrix) -> Tensor:
        """Multiply x [T, inputs], contiguous, by a transposed matrix: [T, outputs]."""
        outputs, inputs = matrix.shape
        size = _Size(len(x), outputs, inputs, _weights(matrix))
        way = self._ways[size] if size in self._ways else self._candidates(size)[0]
        return _multiply(x, matrix, way)

    def prepare(self, rows: int) -> None:
        """Choose the ways for so many rows, unless they are known; not while a graph is captured."""
        if self._seconds is None or rows > _MOST_ROWS:
            return
        measured = False
        for (outputs, inputs), matrices in self._alike.items():
            size = _Size(rows, outputs, inputs, _weights(matrices[0]))
            if size in self._ways:
                continue
            floats = matrices[0].dtype if isinstance(matrices[0], Tensor) else torch.bfloat16
            x = torch.zeros(rows, inputs, dtype=floats, device=self._device)

            def calls(way: Way, x: Tensor = x, matrices: list[Matrix] = matrices) -> list[Callable[[], object]]:
                return [lambda matrix=matrix: _multiply(x, matrix, way) for matrix in matrices[:_MATRICES]]  # type: ignore[misc]

            seconds = self._seconds
            first, *others = self._candidates(size)
            taken = {way: _seconds_or_never(seconds, calls(way)) for way in (first, *others)}
            best = min(taken, key=taken.__getitem__)
            self._ways[size] = best if taken[best] < _SHARE * taken[first] else first
            measured = True
        if measured:
            self._write()

    def _candidates(self, size: _Size) -> list[Way]:
        """Ways to compute a size; the first one if nothing is measured."""
        usual = blocks_for(size.rows, size.outputs, size.inputs, multiprocessors(self._device))
        kernels: list[Way] = [usual, usual._replace(outputs=usual.outputs // 2)]
        return kernels if size.weights in ("int8", "int4", "fp8") else [None, *kernels]

    @property
    def _machine(self) -> str:
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        return f"{name}-torch-{torch.__version__}-triton-{triton.__version__}".replace(" ", "-").replace("/", "-")

    def _read(self) -> dict[_Size, Way]:
        try:
            rows = json.loads(self._file.read_text())
            return {_Size(*size): None if way is None else Blocks(*way) for size, way in rows}
        except (OSError, ValueError, TypeError):  # there is none, or it was written by another version
            return {}

    def _write(self) -> None:
        """Keep what is known, of this model and of others; an engine that cannot write measures anew each time."""
        rows = sorted((self._read() | self._ways).items())
        partial = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(rows))
            partial.replace(self._file)
        except OSError:
            return


def _weights(matrix: Matrix) -> str:
    if isinstance(matrix, QuantizedMatrix):
        return matrix.quantization
    assert not isinstance(matrix, PackedMatrix)
    return str(matrix.dtype).removeprefix("torch.")


def _multiply(x: Tensor, matrix: Matrix, way: Way) -> Tensor:
    if way is None:
        return linear(x, matrix)
    assert not isinstance(matrix, PackedMatrix)
    return multiply(x, matrix, way)


def _seconds_or_never(
    seconds: Callable[[Sequence[Callable[[], object]]], float], calls: list[Callable[[], object]]
) -> float:
    """Seconds of calls; infinite if the device has not the memory or registers for such a kernel."""
    try:
        return seconds(calls)
    except triton.OutOfResources:
        return math.inf


def _seconds_on_gpu(calls: Sequence[Callable[[], object]]) -> float:
    """Seconds of calls, captured in a graph so that the host does not count."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for call in calls:
            call()
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    graph.replay()
    begun.record()
    for _ in range(_TIMES):
        graph.replay()
    ended.record()
    torch.cuda.synchronize()
    return float(begun.elapsed_time(ended)) / 1000
