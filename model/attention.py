"""Attention of one new token per row over the filled part of the row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.device import upload


class RowRun(NamedTuple):
    """Adjacent cache rows with the same number of tokens, which one attention call handles.

    Places start … stop − 1 of the batch are the cache rows first, first + 1, …. `length` is the number of tokens of
    each row, including the new one.
    """

    start: int
    stop: int
    first: int
    length: int


@dataclass
class Rows:
    """Places in the cache where the new tokens of a step go; every step advances them by one token.

    index: int64 [T or more], the cache row of each token.
    positions: int64 [T or more], its position there. Tokens of one row stand side by side, in order.
    count: T.
    windowed: whether a row may have several tokens.
    """

    index: Tensor
    positions: Tensor
    count: int
    windowed: bool = False
    _runs: tuple[RowRun, ...] | None = None
    _steps: int = 0  # since the runs were built

    @classmethod
    def of(cls, index: Sequence[int], positions: Sequence[int], device: torch.device) -> "Rows":
        """Build from numbers on the host."""
        return cls(upload(index, device), upload(positions, device), len(index), len(set(index)) < len(index))

    @property
    def runs(self) -> list[RowRun]:
        """The same on the host, so that attention reads only the filled part."""
        if self._runs is None:
            index, positions = self.index[: self.count].tolist(), self.positions[: self.count].tolist()
            self._runs, self._steps = _runs(index, positions), 0
        return [run._replace(length=run.length + self._steps) for run in self._runs]

    def advance(self) -> None:
        """Move each token to the next position."""
        self.positions.add_(1)
        self.advanced()

    def advanced(self) -> None:
        """Note that the positions were moved by one."""
        self._steps += 1

    def restart(self, count: int, *, windowed: bool) -> None:
        """Note that index and positions were overwritten: other rows than before, or others of their tokens."""
        self.count, self.windowed, self._runs = count, windowed, None


def _runs(index: Sequence[int], positions: Sequence[int]) -> tuple[RowRun, ...]:
    runs: list[RowRun] = []
    for place, (row, position) in enumerate(zip(index, positions, strict=True)):
        last = runs[-1] if runs else None
        if last and last.length == position + 1 and last.first + place - last.start == row:
            runs[-1] = last._replace(stop=place + 1)
        else:
            runs.append(RowRun(place, place + 1, row, position + 1))
    return tuple(runs)


def attend(queries: Tensor, keys: Tensor, values: Tensor, rows: Rows) -> Tensor:
    """Attend from each new token to itself and all tokens before it in its row.

    Args:
        queries: [T, heads, head_dim].
        keys: [cache rows, kv_heads, length, head_dim], including those of the new tokens.
        values: same shape as `keys`.
        rows: cache rows of the batch, and their lengths.

    Returns:
        [T, heads · head_dim].
    """
    shared = queries.shape[1] != keys.shape[1]
    parts = []
    for start, stop, first, length in rows.runs:
        last = first + stop - start
        parts.append(
            F.scaled_dot_product_attention(
                queries[start:stop, :, None],
                keys[first:last, :, :length],
                values[first:last, :, :length],
                enable_gqa=shared,
            )
        )
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined.reshape(len(queries), -1)
