"""The Triton kernel against PyTorch's attention, on a GPU or else in Triton's interpreter, if it is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = """
import torch
from model.attention import Rows, attend
from model.cuda.attention import attend_filled
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
for heads, kv_heads, width in ((4, 4, 32), (4, 2, 24), (2, 1, 64)):
    keys, values = torch.randn(2, 7, kv_heads, 300, width, device=device)
    queries = torch.randn(4, heads, width, device=device)
    rows = Rows.of([3, 4, 0, 6], [0, 1, 63, 299], device)
    plain = attend(queries, keys, values, rows)
    torch.testing.assert_close(attend_filled(queries, keys, values, rows.index, rows.positions), plain)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with PyTorch for CUDA only")
def test_the_kernel_equals_pytorchs_attention() -> None:
    """Rows of 1, 2, 64 and 300 tokens give empty, partial and full parts; also grouped heads and a width of 24."""
    import torch

    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    root = Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=root, env=os.environ | interpret, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
