"""Rates of the card: bytes read and written in a second, and operations of matrix products."""

from collections.abc import Iterator

import torch

from bench.cuda.result import Result
from bench.cuda.timing import time_calls
from bench.cuda.workbench import Workbench


def measure_card(bench: Workbench) -> Iterator[Result]:
    """Time a sum over many bytes, a copy of them, and a product of square matrices, all in bfloat16."""
    count, side = (2**16, 64) if bench.dry else (2**31, 8192)
    numbers = torch.ones(count, dtype=torch.bfloat16, device=bench.device)
    other = torch.empty_like(numbers)
    read = time_calls(lambda: numbers.view(torch.int16).amax(), device=bench.device, times=bench.times)
    yield Result("card", "read", read.device, bytes=numbers.nbytes)
    copied = time_calls(lambda: other.copy_(numbers), device=bench.device, times=bench.times)
    yield Result("card", "copy", copied.device, bytes=2 * numbers.nbytes)
    # of random numbers: of equal ones a GPU computes more in a second, since it needs less power
    first, second = torch.randn(2, side, side, dtype=torch.bfloat16, device=bench.device)
    product = time_calls(lambda: first @ second, device=bench.device, times=bench.times)
    yield Result("card", "matrix product", product.device, flops=2 * side**3)
