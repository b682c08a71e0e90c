"""Attention of one new token a row over the filled part of its row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.device import upload


class Run(NamedTuple):
    """Neighbouring rows of the cache with equally many tokens, which one call attends to.

    Batch places start … stop − 1 are the cache's rows first, first + 1, …; `length` counts the
    tokens of each at the first step, the new one among them.
    """

    start: int
    stop: int
    first: int
    length: int


@dataclass
class Rows:
    """The rows that take part in steps, in the order of the batch; every step moves them on by one token.

    `index` [R] says which row of the cache each is, `positions` [R] where its new token goes. `runs`
    and `steps`, how often they went on, say the same to the host, so that attention reads no more than
    what is filled.
    """

    index: Tensor
    positions: Tensor
    runs: tuple[Run, ...]
    steps: int = 0

    @classmethod
    def of(cls, index: Sequence[int], positions: Sequence[int], device: torch.device) -> "Rows":
        """From plain numbers."""
        runs: list[Run] = []
        for place, (row, position) in enumerate(zip(index, positions, strict=True)):
            last = runs[-1] if runs else None
            if last and last.length == position + 1 and last.first + place - last.start == row:
                runs[-1] = last._replace(stop=place + 1)
            else:
                runs.append(Run(place, place + 1, row, position + 1))
        return cls(upload(index, device), upload(positions, device), tuple(runs))

    def advance(self) -> None:
        """On to the next token of each."""
        self.positions.add_(1)
        self.steps += 1


def attend(queries: Tensor, keys: Tensor, values: Tensor, rows: Rows) -> Tensor:
    """Attention of each row's new token over all tokens of its row.

    Args:
        queries: [R, heads, head_dim].
        keys: [cache rows, kv_heads, length, head_dim], the new tokens' among them.
        values: likewise.
        rows: which rows, and how far they are filled.

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
