"""Elementwise functions whose first call is made by all threads at once, tried in many processes."""

import os
import subprocess
import sys

import pytest

_PROCESSES = 250  # more than half of the runs of this test find the fault
_SCRIPT = f"""
import os
import torch
from model.device import choose_device

def differs():
    choose_device("cpu")
    numbers = torch.arange(16_000, dtype=torch.float32) * 0.37 + 0.01
    functions = (torch.log, torch.sin, torch.cos, torch.exp)
    first = [function(numbers) for function in functions]
    return not all(torch.equal(before, function(numbers)) for before, function in zip(first, functions))

odd = 0
for _ in range({_PROCESSES}):
    child = os.fork()  # before PyTorch has made threads of its own
    if child == 0:
        os._exit(differs())
    odd += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(odd)
"""


@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="needs fork: a process of its own for each trial would take an hour"
)
@pytest.mark.long
def test_first_calls_equal_later_ones() -> None:
    """Without `warm_up_vector_math` about one process in 300 differs on machines where MKL has the fault."""
    environment = os.environ | {"OMP_NUM_THREADS": "16", "OMP_WAIT_POLICY": "passive"}
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False, timeout=300, env=environment
    )
    assert result.stdout.split() == ["0"], result.stderr
