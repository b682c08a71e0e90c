"""Triton kernels for attention of new tokens over the filled part of their rows.

Row indices and lengths are read on the device, not on the host, so a captured CUDA graph stays valid while rows grow
and change. Where there are few tokens, each row is split into parts that are attended to in parallel and then combined
(Dao et al. 2023, "Flash-Decoding"), because they have too few heads to fill a GPU.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 32  # tokens read at once
_STAGES = 3  # blocks of them that are on their way
_WARPS = 4
_MOST_PARTS = 16
_PROGRAMS = 4  # of these kernels, that a multiprocessor has room for


@triton.jit
def _attend_to_part(
    queries, keys, values, key_scales, value_scales, index, positions, output, sums, peaks, totals,
    row_stride, head_stride, token_stride, scale_row_stride, scale_head_stride, scale,
    scaled: tl.constexpr, group: tl.constexpr, width: tl.constexpr, padded_width: tl.constexpr, parts: tl.constexpr,
    block: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """Attend to one part of one row for one head; stores weighted sum of values, largest score, sum of weights.

    Each place in a block has a softmax of its own over the blocks, so that the loop needs no exchange between warps; they
    are combined at the end. The only part of a row is stored as the result.
    """
    token, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    heads = tl.num_programs(1)
    filled = (tl.load(positions + token) + 1).to(tl.int32)
    share = tl.cdiv(tl.cdiv(filled, parts), block) * block
    start = part * share
    stop = tl.minimum(start + share, filled)
    lane = tl.arange(0, block)
    column = tl.arange(0, padded_width)
    valid = column < width
    own = (token * heads + head) * width + column
    query = tl.load(queries + own, mask=valid, other=0.0).to(tl.float32) * scale
    row = tl.load(index + token)
    base = row * row_stride + (head // group) * head_stride
    scale_base = row * scale_row_stride + (head // group) * scale_head_stride
    peak = tl.full([block], -float("inf"), dtype=tl.float32)
    total = tl.zeros([block], dtype=tl.float32)
    weighted = tl.zeros([block, padded_width], dtype=tl.float32)
    for first in tl.range(start, stop, block, num_stages=stages):
        inside = first + lane < stop
        where = base + (first + lane)[:, None] * token_stride + column[None, :]
        mask = inside[:, None] & valid[None, :]
        key = tl.load(keys + where, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(values + where, mask=mask, other=0.0).to(tl.float32)
        product = tl.sum(key * query[None, :], axis=1)
        if scaled:
            product *= tl.load(key_scales + scale_base + first + lane, mask=inside, other=0.0)
        score = tl.where(inside, product, -float("inf"))
        higher = tl.maximum(peak, score)
        base_score = tl.where(higher == -float("inf"), 0.0, higher)
        weight = tl.exp(score - base_score)
        rescale = tl.exp(peak - base_score)
        share_of_value = weight
        if scaled:
            share_of_value = weight * tl.load(value_scales + scale_base + first + lane, mask=inside, other=0.0)
        weighted = weighted * rescale[:, None] + share_of_value[:, None] * value
        total = total * rescale + weight
        peak = higher
    highest = tl.max(peak, axis=0)
    rescale = tl.exp(peak - tl.where(highest == -float("inf"), 0.0, highest))
    all_weighted = tl.sum(weighted * rescale[:, None], axis=0)
    all_weight = tl.sum(total * rescale, axis=0)
    if parts == 1:
        tl.store(output + own, (all_weighted / all_weight).to(output.dtype.element_ty), mask=valid)
    else:
        offset = (token * heads + head) * parts + part
        tl.store(sums + offset * width + column, all_weighted, mask=valid)
        tl.store(peaks + offset, highest)
        tl.store(totals + offset, all_weight)


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


@cache
def multiprocessors(device: torch.device) -> int:
    """Number of multiprocessors of a GPU."""
    if device.type != "cuda":
        return 4  # in Triton's interpreter: rows of few tokens have parts, rows of many have none
    return torch.cuda.get_device_properties(device).multi_processor_count


def parts_for(tokens: int, heads: int, device: torch.device) -> int:
    """Parts of a row that are attended to in parallel, when a step has so many tokens: all of them run at once."""
    return max(1, min(_MOST_PARTS, _PROGRAMS * multiprocessors(device) // (tokens * heads)))


def attend_filled(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    index: Tensor,
    positions: Tensor,
    *,
    scales: Tensor | None = None,
    parts: int | None = None,
) -> Tensor:
    """Attend from each new token to all tokens of its row at its position and before.

    Args:
        queries: [T, heads, head_dim], contiguous.
        keys: [cache rows, kv_heads, length, head_dim], the last dimension contiguous.
        values: same shape and strides as `keys`.
        index: int64 [T], cache row of each.
        positions: int64 [T], position of the new token, whose key and value are already in the cache.
        scales: float32 [2, cache rows, kv_heads, length], of keys and values of 8-bit floats.
        parts: of a row, in parallel; `parts_for` if not given.

    Returns:
        [T, heads · head_dim].
    """
    tokens, heads, width = queries.shape
    assert queries.is_contiguous()
    assert keys.stride() == values.stride()
    assert keys.stride(-1) == 1
    parts = parts_for(tokens, heads, queries.device) if parts is None else parts
    kept = parts if parts > 1 else 0  # of a row in one part nothing is to be combined
    sums = queries.new_empty(tokens, heads, kept, width, dtype=torch.float32)
    peaks, totals = queries.new_empty(2, tokens, heads, kept, dtype=torch.float32)
    output = torch.empty_like(queries)
    padded = triton.next_power_of_2(width)
    key_scales, value_scales = (keys, values) if scales is None else scales
    _attend_to_part[tokens, heads, parts](
        queries, keys, values, key_scales, value_scales, index, positions, output, sums, peaks, totals,
        keys.stride(0), keys.stride(1), keys.stride(2), key_scales.stride(0), key_scales.stride(1), width**-0.5,
        scaled=scales is not None, group=heads // keys.shape[1], width=width, padded_width=padded, parts=parts,
        block=_BLOCK, stages=_STAGES, num_warps=_WARPS,
    )  # fmt: skip
    if parts > 1:
        _combine_parts[tokens, heads](
            sums, peaks, totals, output,
            width=width, padded_width=padded, parts=parts, padded_parts=triton.next_power_of_2(parts),
        )  # fmt: skip
    return output.view(tokens, -1)
