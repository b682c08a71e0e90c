"""The decode step as CUDA graphs, one per batch size: one launch instead of hundreds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import Rows


@dataclass(frozen=True)
class StepGraph:
    """Captured step of one number of codes; replaying it reads `codes` and `rows` and overwrites `logits`, all in place."""

    codes: Tensor
    rows: Rows
    logits: Tensor
    graph: torch.cuda.CUDAGraph


class StepGraphs:
    """Step that replays captured graphs; a batch is padded to the next captured size.

    Args:
        step: from codes [R] and rows to logits [R, V]; must not depend on values on the host.
        sizes: batch sizes to capture.
        spare_row: cache row that padding writes to.
        device: a CUDA device.
    """

    def __init__(
        self, step: Callable[[Tensor, Rows], Tensor], *, sizes: Sequence[int], spare_row: int, device: torch.device
    ) -> None:
        self._spare_row = spare_row
        self._graphs: dict[int, StepGraph] = {}
        pool = None
        for size in sorted(sizes, reverse=True):  # the largest first: the others fit into its memory pool
            codes = torch.zeros(size, dtype=torch.int64, device=device)
            rows = Rows(torch.full_like(codes, spare_row), torch.zeros_like(codes), size)
            side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):  # kernels must be chosen and compiled before the capture
                for _ in range(2):
                    step(codes, rows)
            torch.cuda.current_stream(device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits = step(codes, rows)
            pool = graph.pool()
            self._graphs[size] = StepGraph(codes, rows, logits, graph)

    def __call__(self, codes: Tensor, rows: Rows) -> Tensor:
        """Logits [T, V], valid until the next call."""
        count = rows.count
        captured = self._graphs[min(size for size in self._graphs if size >= count)]
        captured.codes[:count] = codes
        captured.rows.index[:count] = rows.index
        captured.rows.index[count:] = self._spare_row
        captured.rows.positions[:count] = rows.positions
        captured.rows.positions[count:] = 0
        captured.graph.replay()
        return captured.logits[:count]


def batch_sizes(rows: int) -> list[int]:
    """Batch sizes to capture for at most `rows` rows, close enough together that padding wastes little."""
    few = [size for size in (1, 2, 4, 8, 12, 16, 24, 32, 48) if size < rows]
    return [*few, *range(64, rows, 32), rows]
