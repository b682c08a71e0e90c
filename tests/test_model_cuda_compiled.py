"""Triton kernels, compiled for GPUs that are not here: registers, spills, shared memory, and how they load."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import needs_kernels

pytestmark = needs_kernels
ROOT = Path(__file__).parent.parent
LAUNCHED = [
    "_attend_to_part", "_combine_parts", "_attend_to_part", "_add_and_normalise", "_rotate_and_write", "_gate",
    "_find_thresholds", "_draw", "_feed", "_find_thresholds", "_draw", "_feed",
    "_multiply", "_add_splits", "_multiply", "_add_splits", "_multiply", "_add_splits",
]  # fmt: skip
FP8 = ["_multiply", "_add_splits", "_attend_to_part", "_rotate_and_write"]  # with 8-bit floats
REGISTERS, SHARED = 65536, {"sm_80": 163, "sm_89": 99, "sm_90": 227}  # of a multiprocessor; KiB
THREADS = {
    "_attend_to_part": 4 * 128,
    "_find_thresholds": 512,
    "_multiply": 256,
}  # with registers at a time
ATTENDING = {"sm_80": 4, "sm_89": 2, "sm_90": 4}  # programs that have shared memory on a multiprocessor
SPILLED = {"_find_thresholds": 16}  # bytes of the stack, at most: four registers, outside of the loops


@pytest.mark.parametrize("target", SHARED)
def test_kernels_fit_and_load_in_whole_lines(target: str) -> None:
    """The launches are those of a 7B in bfloat16. Attention loads keys and values asynchronously, 16 bytes a thread, three
    blocks at a time. The other large loads and stores also have 16 bytes a thread."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.compiled_kernels", target]
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    kernels = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [one["kernel"] for one in kernels] == LAUNCHED + (FP8 if target != "sm_80" else [])
    for one in kernels:
        name, used = one["kernel"], one["instructions"]
        eight_bits = any("E4M3" in opcode for opcode in used)
        assert one["stack"] <= SPILLED.get(name, 0), one
        assert one["registers"] * THREADS.get(name, 1024) <= REGISTERS, one
        wide = sum(count for opcode, count in used.items() if opcode.startswith(("LDG", "LDGSTS")) and "128" in opcode)
        assert wide >= 2 or name == "_feed", one  # which loads a few numbers
        if name == "_attend_to_part":
            # 32 tokens of 128 numbers of 2 bytes are 4 loads of keys and 4 of values for each of 128 threads
            assert used["LDGSTS.E.BYPASS.128"] == 3 * (4 if eight_bits else 8), one
            assert ATTENDING[target] * (one["shared"] + 1024) <= SHARED[target] * 1024, one
        if name == "_multiply":
            # of few rows two programs must be on a multiprocessor, so that enough of the matrix is on its way
            assert used["LDGSTS.E.BYPASS.128"] >= 16, one
            assert (1 if one["warps"] == 8 else 2) * (one["shared"] + 1024) <= SHARED[target] * 1024, one
        if name in ("_add_and_normalise", "_rotate_and_write", "_gate") and not eight_bits:
            assert not any(opcode.startswith("STG") and "128" not in opcode for opcode in used), one
