"""Elementwise functions on a CPU that give the same digits from their first call on."""

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


def warm_up_vector_math() -> None:
    """Call these functions once from a single thread, before several threads call them together.

    On a CPU PyTorch computes them with MKL's vector library, which chooses its kernels at the first call. If several
    threads make that call together, one of them may compute its share with a kernel of low precision
    (pytorch/pytorch#188792). On a busy machine, one process in some hundreds then trained to weights that differed
    from all others in their last digits.
    """
    for function in _FUNCTIONS:
        for dtype in (torch.float32, torch.float64):
            function(torch.ones(1, dtype=dtype))  # one number, so that PyTorch uses one thread
