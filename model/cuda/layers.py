"""Triton kernels between the matrix products of a decoder layer; each reads and writes its numbers once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_HEADS = 4  # that one program rotates
_GATED = 1024  # numbers that one program gates


@triton.jit
def _add_and_normalise(x, added, weight, normal, width, epsilon, padded: tl.constexpr, adds: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, padded)
    inside = column < width
    place = row * width + column
    number = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if adds:
        number += tl.load(added + place, mask=inside, other=0.0).to(tl.float32)
        rounded = number.to(x.dtype.element_ty)
        tl.store(x + place, rounded, mask=inside)
        number = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(number * number, axis=0) / width + epsilon)
    scaled = number * scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normal + place, scaled.to(normal.dtype.element_ty), mask=inside)


def add_and_normalise(x: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    """Add to a residual stream [R, width], in place, and return its root-mean-square norm times a weight [width].

    The sum is rounded to the stream's dtype before it is normalised, as PyTorch's operations do.
    """
    rows, width = x.shape
    normal = torch.empty_like(x)
    padded = triton.next_power_of_2(width)
    _add_and_normalise[rows,](
        x, x if added is None else added, weight, normal, width, epsilon,
        padded=padded, adds=added is not None, num_warps=min(16, max(1, padded // 512)),
    )  # fmt: skip
    return normal


@triton.jit
def _keep(
    first, second, place, scale_place, head, column, there, kv_heads, head_stride, scale_head_stride,
    half: tl.constexpr, rounds: tl.constexpr,
):  # fmt: skip
    """Store both halves of those heads that are keys, or values, of one token; if they are rounded, also their scales."""
    kept = (head >= 0) & (head < kv_heads)
    low, high = first.to(tl.float32), second.to(tl.float32)
    if rounds:
        # the largest number of a head becomes the largest of E4M3, 448
        most = tl.maximum(tl.max(tl.abs(low), axis=1), tl.max(tl.abs(high), axis=1))
        scale = tl.maximum(most, 5.3e-36) / 448.0
        tl.store(scale_place + head * scale_head_stride, scale, mask=kept)
        low, high = low / scale[:, None], high / scale[:, None]
    where = (head * head_stride)[:, None] + column[None, :]
    tl.store(place + where, low.to(place.dtype.element_ty), mask=there & kept[:, None])
    tl.store(place + where + half, high.to(place.dtype.element_ty), mask=there & kept[:, None])


@triton.jit
def _rotate_and_write(
    joined, rotations, index, positions, queries, keys, values, key_scales, value_scales,
    row_stride, head_stride, token_stride, scale_row_stride, scale_head_stride, sine_offset,
    heads: tl.constexpr, kv_heads: tl.constexpr, half: tl.constexpr, padded_half: tl.constexpr, at_once: tl.constexpr,
    rounds: tl.constexpr,
):  # fmt: skip
    """Rotate some heads of one token and put each where it belongs."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * at_once + tl.arange(0, at_once)
    column = tl.arange(0, padded_half)
    there = (head < heads + 2 * kv_heads)[:, None] & (column < half)[None, :]
    source = (token * (heads + 2 * kv_heads) + head)[:, None] * (2 * half) + column[None, :]
    first = tl.load(joined + source, mask=there, other=0.0)
    second = tl.load(joined + source + half, mask=there, other=0.0)
    position = tl.load(positions + token)
    angle = position * (2 * half) + column
    cosine = tl.load(rotations + angle, mask=column < half, other=0.0)[None, :]
    sine = tl.load(rotations + sine_offset + half + angle, mask=column < half, other=0.0)[None, :]
    low, high = first.to(tl.float32), second.to(tl.float32)
    turned_first = (low * cosine - high * sine).to(first.dtype)
    turned_second = (high * cosine + low * sine).to(first.dtype)

    is_query = head < heads
    own = (token * heads + head)[:, None] * (2 * half) + column[None, :]
    tl.store(queries + own, turned_first, mask=there & is_query[:, None])
    tl.store(queries + own + half, turned_second, mask=there & is_query[:, None])

    cache_row = tl.load(index + token)
    row = cache_row * row_stride + position * token_stride
    scale_row = cache_row * scale_row_stride + position
    _keep(
        turned_first, turned_second, keys + row, key_scales + scale_row, head - heads, column, there,
        kv_heads, head_stride, scale_head_stride, half, rounds,
    )  # fmt: skip
    _keep(
        first, second, values + row, value_scales + scale_row, head - heads - kv_heads, column, there,
        kv_heads, head_stride, scale_head_stride, half, rounds,
    )  # fmt: skip


def rotate_and_write(
    joined: Tensor,
    rotations: Tensor,
    index: Tensor,
    positions: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    heads: int,
    scales: Tensor | None = None,
) -> Tensor:
    """Rotate queries and keys, and write keys and values into the cache.

    Args:
        joined: [T, (heads + 2 kv_heads) · head_dim], contiguous: queries, keys and values of T tokens.
        rotations: cosines and sines [2, positions, head_dim], as of `model.decoder.rotate`.
        index: int64 [T], cache row of each token.
        positions: int64 [T], its position.
        keys: of one layer, [cache rows, kv_heads, length, head_dim]; gains the keys, in place.
        values: same shape and strides as `keys`; gains the values.
        heads: number of query heads.
        scales: float32 [2, cache rows, kv_heads, length], of keys and values of 8-bit floats; gains the scales.

    Returns:
        Rotated queries, [T, heads, head_dim].
    """
    tokens, kv_heads, width = len(joined), keys.shape[1], keys.shape[3]
    queries = joined.new_empty(tokens, heads, width)
    half = width // 2
    key_scales, value_scales = (keys, values) if scales is None else scales
    _rotate_and_write[tokens, triton.cdiv(heads + 2 * kv_heads, _HEADS)](
        joined, rotations, index, positions, queries, keys, values, key_scales, value_scales,
        keys.stride(0), keys.stride(1), keys.stride(2), key_scales.stride(0), key_scales.stride(1), rotations.stride(0),
        heads=heads, kv_heads=kv_heads, half=half, padded_half=triton.next_power_of_2(half), at_once=_HEADS,
        rounds=scales is not None, num_warps=1,
    )  # fmt: skip
    return queries


@triton.jit
def _gate(gates, gated, inner, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < inner
    gate = tl.load(gates + row * 2 * inner + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gates + (row * 2 + 1) * inner + column, mask=inside, other=0.0).to(tl.float32)
    numbers = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(gated + row * inner + column, numbers.to(gated.dtype.element_ty), mask=inside)


def gate(gates: Tensor) -> Tensor:
    """silu(first half) · second half of each row [R, 2 · inner], contiguous: [R, inner]."""
    rows, inner = gates.shape[0], gates.shape[1] // 2
    gated = gates.new_empty(rows, inner)
    _gate[rows, triton.cdiv(inner, _GATED)](gates, gated, inner, block=_GATED)
    return gated
