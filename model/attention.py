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
    each row at the first step, including the new one.
    """

    start: int
    stop: int
    first: int
    length: int


@dataclass
class Rows:
    """Cache rows of a batch, in batch order; every step advances them by one token.

    `index` [R] is the cache row of each, `positions` [R] the position of its new token. `runs` and `steps` (steps
    since the runs were built) hold the same on the host, so that attention reads only the filled part.
    """

    index: Tensor
    positions: Tensor
    runs: tuple[RowRun, ...]
    steps: int = 0

    @classmethod
    def of(cls, index: Sequence[int], positions: Sequence[int], device: torch.device) -> "Rows":
        """Build from numbers on the host."""
        runs: list[RowRun] = []
        for place, (row, position) in enumerate(zip(index, positions, strict=True)):
            last = runs[-1] if runs else None
            if last and last.length == position + 1 and last.first + place - last.start == row:
                runs[-1] = last._replace(stop=place + 1)
            else:
                runs.append(RowRun(place, place + 1, row, position + 1))
        return cls(upload(index, device), upload(positions, device), tuple(runs))

    def advance(self) -> None:
        self.positions.add_(1)
        self.steps += 1


def attend(queries: Tensor, keys: Tensor, values: Tensor, rows: Rows) -> Tensor:
    """Attend from each row's new token to all tokens of its row.

    Args:
        queries: [R, heads, head_dim].
        keys: [cache rows, kv_heads, length, head_dim], including those of the new tokens.
        values: same shape as `keys`.
        rows: cache rows of the batch, and their lengths.

    Returns:
        [R, heads · head_dim].
    """
    shared = queries.shape[1] != keys.shape[1]
    parts = []
    for start, stop, first, at_first in rows.runs:
        last, length = first + stop - start, at_first + rows.steps
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
