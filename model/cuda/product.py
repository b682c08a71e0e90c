"""A Triton kernel that multiplies few rows by a matrix, whose weights may have few bits.

With few rows the time goes into reading the matrix. Each program reads some inputs of some outputs, once; where there are too few
outputs to fill a GPU, their inputs are split, and the parts are added up afterwards.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.quantized_matrix import GROUP, QuantizedMatrix

_FEW_ROWS = 32
_MOST_ROWS = 128  # of a program: more are several programs, each of which reads the matrix


class Blocks(NamedTuple):
    """Division of a product into programs.

    outputs: of a program.
    inputs: that it multiplies at once; 128 for int4.
    splits: of the inputs, each a program's.
    warps: of a program.
    stages: blocks of the matrix that are on their way.
    """

    outputs: int
    inputs: int
    splits: int
    warps: int
    stages: int


@triton.jit
def _multiply(
    x, values, scales, result, rows, outputs, inputs, groups,
    packed: tl.constexpr, scaled: tl.constexpr, splits: tl.constexpr,
    block_rows: tl.constexpr, block: tl.constexpr, at_once: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """Multiply some rows by some outputs' weights, over one split of the inputs."""
    output = tl.program_id(0) * block + tl.arange(0, block)
    split = tl.program_id(1)
    row = tl.program_id(2) * block_rows + tl.arange(0, block_rows)
    has_row, has_output = (row < rows)[:, None], (output < outputs)[None, :]
    share = tl.cdiv(tl.cdiv(inputs, at_once), splits) * at_once
    first = split * share
    last = tl.minimum(first + share, inputs)
    total = tl.zeros([block_rows, block], dtype=tl.float32)
    width: tl.constexpr = at_once // 2 if packed else at_once
    lane = tl.arange(0, width)
    for start in tl.range(first, last, at_once, num_stages=stages):
        of_x = x + row[:, None].to(tl.int64) * inputs + start + lane[None, :]
        if packed:
            place = output[None, :].to(tl.int64) * (groups * width) + start // 2 + lane[:, None]
            pair = tl.load(values + place, mask=has_output, other=0)
            low, high = (pair & 15).to(tl.float32) - 8, (pair >> 4).to(tl.float32) - 8
            in_low, in_high = (start + lane < inputs)[None, :], (start + width + lane < inputs)[None, :]
            of_low = tl.load(of_x, mask=has_row & in_low, other=0.0)
            of_high = tl.load(of_x + width, mask=has_row & in_high, other=0.0)
            part = tl.dot(of_low, low.to(of_low.dtype), input_precision="ieee")
            part = tl.dot(of_high, high.to(of_high.dtype), part, input_precision="ieee")
            scale = tl.load(scales + output * groups + start // at_once, mask=output < outputs, other=0.0)
            total += part * scale[None, :]
        else:
            inside = start + lane < last
            place = output[None, :].to(tl.int64) * inputs + start + lane[:, None]
            weight = tl.load(values + place, mask=has_output & inside[:, None], other=0.0)
            of_row = tl.load(of_x, mask=has_row & inside[None, :], other=0.0)
            total = tl.dot(of_row, weight.to(of_row.dtype), total, input_precision="ieee")
    if scaled and not packed:
        total *= tl.load(scales + output, mask=output < outputs, other=0.0)[None, :]
    where = (split * rows + row[:, None]) * outputs + output[None, :]
    tl.store(result + where, total.to(result.dtype.element_ty), mask=has_row & has_output)


@triton.jit
def _add_splits(parts, result, numbers, splits: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < numbers
    total = tl.zeros([block], dtype=tl.float32)
    for split in tl.static_range(splits):
        total += tl.load(parts + split * numbers + place, mask=inside, other=0.0)
    tl.store(result + place, total.to(result.dtype.element_ty), mask=inside)


def blocks_for(rows: int, outputs: int, inputs: int, multiprocessors: int) -> Blocks:
    """Blocks with which two programs at least are on every multiprocessor, if there are inputs enough.

    Of many rows a program takes more memory, of which an Ada multiprocessor has 99 KiB, and more registers.
    """
    block = 64
    programs = -(-outputs // block)
    splits = max(1, min(8, -(-2 * multiprocessors // programs), inputs // (4 * GROUP)))
    many = rows > _FEW_ROWS
    return Blocks(block, GROUP, splits, warps=8 if many else 4, stages=3 if many else 4)


def multiply(x: Tensor, matrix: Tensor | QuantizedMatrix, blocks: Blocks) -> Tensor:
    """Multiply rows by a transposed matrix.

    Args:
        x: [R, inputs], contiguous.
        matrix: [outputs, inputs], contiguous.
        blocks: how the product is divided.

    Returns:
        [R, outputs], in the dtype of `x`; sums are float32.
    """
    rows, inputs = x.shape
    outputs = matrix.shape[0]
    values, scales = (matrix.values, matrix.scales) if isinstance(matrix, QuantizedMatrix) else (matrix, x)
    packed = values.dtype == torch.uint8
    assert x.is_contiguous()
    assert values.is_contiguous()
    assert not packed or blocks.inputs == GROUP
    block_rows = min(_MOST_ROWS, max(16, triton.next_power_of_2(rows)))
    parts = x.new_empty(blocks.splits, rows, outputs, dtype=x.dtype if blocks.splits == 1 else torch.float32)
    _multiply[triton.cdiv(outputs, blocks.outputs), blocks.splits, triton.cdiv(rows, block_rows)](
        x, values, scales, parts, rows, outputs, inputs, scales.shape[-1],
        packed=packed, scaled=scales is not x, splits=blocks.splits, block_rows=block_rows, block=blocks.outputs,
        at_once=blocks.inputs, stages=blocks.stages, num_warps=blocks.warps,
    )  # fmt: skip
    if blocks.splits == 1:
        return parts[0]
    result = x.new_empty(rows, outputs)
    _add_splits[triton.cdiv(rows * outputs, 1024),](parts, result, rows * outputs, splits=blocks.splits, block=1024)
    return result
