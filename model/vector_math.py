"""Elementwise functions that give the same digits from their first call on."""

import torch

_FUNCTIONS = (
    torch.cos,
    torch.erf,
    torch.exp,
    torch.expm1,
    torch.log,
    torch.log10,
    torch.log1p,
    torch.log2,
    torch.sin,
    torch.sqrt,
    torch.tan,
    torch.tanh,
)


def settle_vector_math() -> None:
    """Have these functions called once by a single thread, before several threads call them together.

    On a CPU PyTorch leaves them to MKL's vector library, which chooses its kernels at the first
    call. Where several threads make that call, one of them may compute its share with a kernel of
    few digits (pytorch/pytorch#188792): one process in some hundreds on a busy machine trained to
    weights that differed from those of all others in their last digits.
    """
    for function in _FUNCTIONS:
        for dtype in (torch.float32, torch.float64):
            function(torch.ones(1, dtype=dtype))  # one number is one thread's work
