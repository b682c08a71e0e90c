"""Triton kernels for attention of one new token per row over the filled part of the row.

Row indices and lengths are read on the device, not on the host, so a captured CUDA graph stays valid while rows grow
and change. Each row is split into parts that are attended to in parallel and then combined (Dao et al. 2023,
"Flash-Decoding"), because one image alone has too few rows to fill a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_PARTS = 4  # of each row, in parallel
_BLOCK = 64  # tokens read at once


@triton.jit
def _attend_to_part(
    queries, keys, values, index, positions, sums, peaks, totals,
    row_stride, head_stride, token_stride, scale,
    group: tl.constexpr, width: tl.constexpr, padded_width: tl.constexpr, parts: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Attend to one part of one row for one head; stores weighted sum of values, largest score, sum of weights."""
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    offset = (row * tl.num_programs(1) + head) * parts + part
    filled = tl.load(positions + row) + 1
    share = tl.cdiv(tl.cdiv(filled, parts), block) * block
    start = part * share
    stop = tl.minimum(start + share, filled)
    column = tl.arange(0, padded_width)
    valid = column < width
    query = tl.load(queries + (row * tl.num_programs(1) + head) * width + column, mask=valid, other=0.0).to(tl.float32)
    base = tl.load(index + row).to(tl.int64) * row_stride + (head // group) * head_stride
    peak = -float("inf")
    total = 0.0
    weighted = tl.zeros([padded_width], dtype=tl.float32)
    for first in range(start, stop, block):
        token = first + tl.arange(0, block)
        inside = token < stop
        where = base + token[:, None] * token_stride + column[None, :]
        mask = inside[:, None] & valid[None, :]
        key = tl.load(keys + where, mask=mask, other=0.0).to(tl.float32)
        scores = tl.where(inside, tl.sum(key * query[None, :], axis=1) * scale, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=0))
        weights = tl.exp(scores - higher)
        rescale = tl.exp(peak - higher)
        value = tl.load(values + where, mask=mask, other=0.0).to(tl.float32)
        weighted = weighted * rescale + tl.sum(weights[:, None] * value, axis=0)
        total = total * rescale + tl.sum(weights, axis=0)
        peak = higher
    tl.store(sums + offset * width + column, weighted, mask=valid)
    tl.store(peaks + offset, peak)
    tl.store(totals + offset, total)


@triton.jit
def _combine_parts(
    sums, peaks, totals, output,
    width: tl.constexpr, padded_width: tl.constexpr, parts: tl.constexpr, padded_parts: tl.constexpr,
):  # fmt: skip
    """Combine the parts of one row and head; parts of a short row may be empty."""
    offset = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    part = tl.arange(0, padded_parts)
    column = tl.arange(0, padded_width)
    there, valid = part < parts, column < width
    peak = tl.load(peaks + offset * parts + part, mask=there, other=-float("inf"))
    rescale = tl.exp(peak - tl.max(peak, axis=0))
    total = tl.sum(tl.load(totals + offset * parts + part, mask=there, other=0.0) * rescale, axis=0)
    where = (offset * parts + part[:, None]) * width + column[None, :]
    weighted = tl.load(sums + where, mask=there[:, None] & valid[None, :], other=0.0)
    result = tl.sum(weighted * rescale[:, None], axis=0) / total
    tl.store(output + offset * width + column, result.to(output.dtype.element_ty), mask=valid)


def attend_filled(queries: Tensor, keys: Tensor, values: Tensor, index: Tensor, positions: Tensor) -> Tensor:
    """Attend from each row's new token to all tokens of its row.

    Args:
        queries: [R, heads, head_dim], contiguous.
        keys: [cache rows, kv_heads, length, head_dim], the last dimension contiguous.
        values: same shape and strides as `keys`.
        index: [R], cache row of each.
        positions: [R], position of the new token, whose key and value are already in the cache.

    Returns:
        [R, heads · head_dim].
    """
    rows, heads, width = queries.shape
    assert queries.is_contiguous()
    assert keys.stride() == values.stride()
    assert keys.stride(-1) == 1
    sums = queries.new_empty(rows, heads, _PARTS, width, dtype=torch.float32)
    peaks, totals = queries.new_empty(2, rows, heads, _PARTS, dtype=torch.float32)
    output = torch.empty_like(queries)
    padded = triton.next_power_of_2(width)
    _attend_to_part[rows, heads, _PARTS](
        queries, keys, values, index, positions, sums, peaks, totals,
        keys.stride(0), keys.stride(1), keys.stride(2), width**-0.5,
        group=heads // keys.shape[1], width=width, padded_width=padded, parts=_PARTS, block=_BLOCK,
    )  # fmt: skip
    _combine_parts[rows, heads](
        sums, peaks, totals, output,
        width=width, padded_width=padded, parts=_PARTS, padded_parts=triton.next_power_of_2(_PARTS),
    )  # fmt: skip
    return output.view(rows, -1)
