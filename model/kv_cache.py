"""The KV cache, and the prefix that a prompt puts into it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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


FP8 = torch.float8_e4m3fn
BLOCK = 16  # positions


class KVCache:
    """Keys and values of all rows, allocated once: each [layers, rows, kv_heads, length, head_dim].

    Rows have a fixed length. Every image needs the same number of tokens and never ends early, so little is wasted
    and paging would save nothing.

    Args:
        layers: of the decoder.
        rows: number of rows.
        kv_heads: heads that have keys and values.
        length: most tokens of a row.
        head_dim: numbers of a head.
        device: holds the cache.
        dtype: of keys and values. Those of float8_e4m3fn have scales: only the kernels of `model.cuda` compute with them.
        rounded: dtype that numbers are rounded to before they are stored as `dtype`; 8-bit floats with their scales.
        in_blocks: store keys as the C functions read them (`model/cpu/attention.h`), dimension by dimension for 16 positions:
            [layers, rows, kv_heads, blocks, head_dim, 16].

    Attributes:
        scales: float32 [2, layers, rows, kv_heads, length], of the keys and values of each token and head; None for other
            dtypes.
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
        rounded: torch.dtype | None = None,
        in_blocks: bool = False,
    ) -> None:
        shape = (layers, rows, kv_heads, length, head_dim)
        blocks = (*shape[:3], -(-length // BLOCK), head_dim, BLOCK)
        self.keys = torch.zeros(blocks if in_blocks else shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.scales = torch.zeros(2, *shape[:-1], device=device) if dtype == FP8 else None
        self._rounded, self._in_blocks = rounded, in_blocks

    @property
    def rows(self) -> int:
        return self.values.shape[1]

    @property
    def length(self) -> int:
        """Most tokens of a row."""
        return self.values.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values together."""
        return self.keys.nbytes + self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def begin(self, row: int, prefix: Prefix) -> None:
        """Copy a prefix into a row; older content behind it is overwritten before it is read."""
        keys = _blocks(prefix.keys) if self._in_blocks else prefix.keys
        for number, (kept, new) in enumerate(((self.keys, keys), (self.values, prefix.values))):
            if self.scales is not None:
                new, self.scales[number, :, row, :, : prefix.length] = round_to_fp8(new)
            kept[:, row, :, : new.shape[2]] = self._round(new)

    def prefix(self, row: int, length: int, logits: Tensor) -> Prefix:
        """Copy the first tokens of a row of a cache whose keys are in blocks."""
        assert self._in_blocks
        keys = self.keys[:, row].transpose(3, 4).flatten(2, 3)
        return Prefix(keys[:, :, :length].clone(), self.values[:, row, :, :length].clone(), logits.clone())

    def write(self, layer: int, index: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store floats of T tokens, keys and values [T, kv_heads, head_dim], at their rows and positions, each int64 [T]."""
        for kept, new in ((self.keys, keys), (self.values, values)):
            kept[layer][index, :, positions] = self._round(new)

    def _round(self, numbers: Tensor) -> Tensor:
        """Numbers [..., head_dim] as they are stored."""
        if self._rounded == FP8:
            values, scales = round_to_fp8(numbers)
            return (values.float() * scales[..., None]).to(numbers.dtype)
        return numbers if self._rounded is None else numbers.to(self._rounded).to(numbers.dtype)


def _blocks(keys: Tensor) -> Tensor:
    """Keys [layers, kv_heads, T, head_dim] as [layers, kv_heads, blocks, head_dim, BLOCK]; zeros fill the last block."""
    layers, heads, length, width = keys.shape
    return F.pad(keys, (0, 0, 0, -length % BLOCK)).reshape(layers, heads, -1, BLOCK, width).transpose(3, 4)


def round_to_fp8(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Round the heads [..., head_dim] of tokens to 8-bit floats: E4M3 numbers, and scales [...] to multiply them by."""
    most = torch.finfo(FP8).max
    scales = numbers.float().abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny * most) / most
    return (numbers.float() / scales[..., None]).to(FP8), scales
