"""Keys and values of the rows that are being decoded, allocated once."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prefix:
    """What a prompt leaves behind: its keys and values, and the logits of what follows it.

    `keys` and `values` are [layers, kv_heads, T, head_dim], `logits` [V] float32.
    """

    keys: Tensor
    values: Tensor
    logits: Tensor

    @property
    def length(self) -> int:
        """T, the prompt's tokens."""
        return self.keys.shape[2]


class KVCache:
    """A row for every sequence: keys and values are each [layers, rows, kv_heads, length, head_dim].

    Every image needs the same number of tokens and never ends early, so that rows of a fixed length
    waste little, and pages would save nothing.
    """

    def __init__(
        self,
        *,
        layers: int,
        rows: int,
        kv_heads: int,
        length: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (layers, rows, kv_heads, length, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    @property
    def rows(self) -> int:
        """How many sequences fit."""
        return self.keys.shape[1]

    @property
    def length(self) -> int:
        """The most tokens of a sequence."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Memory of keys and values together."""
        return self.keys.nbytes + self.values.nbytes

    def begin(self, row: int, prefix: Prefix) -> None:
        """Start a row with a prompt; what an earlier sequence left behind it is overwritten before it is read."""
        self.keys[:, row, :, : prefix.length] = prefix.keys
        self.values[:, row, :, : prefix.length] = prefix.values
