"""The KV cache, and the prefix that a prompt puts into it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prompt, and the logits of the first code after it.

    `keys` and `values` are [layers, kv_heads, T, head_dim], `logits` [V] float32.
    """

    keys: Tensor
    values: Tensor
    logits: Tensor

    @property
    def length(self) -> int:
        """T, the number of tokens of the prompt."""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes + self.logits.nbytes


class KVCache:
    """Keys and values of all rows, allocated once: each [layers, rows, kv_heads, length, head_dim].

    Rows have a fixed length. Every image needs the same number of tokens and never ends early, so little is wasted
    and paging would save nothing.
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
        return self.keys.shape[1]

    @property
    def length(self) -> int:
        """Most tokens of a row."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values together."""
        return self.keys.nbytes + self.values.nbytes

    def begin(self, row: int, prefix: Prefix) -> None:
        """Copy a prefix into a row; older content behind it is overwritten before it is read."""
        self.keys[:, row, :, : prefix.length] = prefix.keys
        self.values[:, row, :, : prefix.length] = prefix.values
