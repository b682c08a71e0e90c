"""Compiles the project's Triton kernels for GPUs that are not here, and prints what they use.

`python -m tests.compiled_kernels sm_90` calls the functions that launch kernels, with tensors that have shapes but no memory,
as a model of 7B would. Each kernel is compiled as that launch would compile it, and not started. A line of JSON for each.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from model.quantization import Quantization

HEADS, WIDTH, HIDDEN, INNER, VOCABULARY, TOKENS = 32, 128, 4096, 11008, 16384, 576
ROWS = 128


class Used(NamedTuple):
    """Resources of a compiled kernel: registers of a thread, bytes of its stack (spills), bytes of shared memory, and how often
    each instruction occurs in it."""

    kernel: str
    registers: int
    stack: int
    shared: int
    warps: int
    instructions: dict[str, int]


class _Driver:
    """Stands for the driver of a GPU that is not here; kernels can be compiled for it, but not started."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling(capability: int) -> Iterator[list[Used]]:
    """Context in which launches only compile; yields what the kernels use, in order."""
    used: list[Used] = []
    launch = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: object, warmup: bool, **options: Any) -> None:
        used.append(_measure(self.fn.__name__, launch(self, *args, grid=grid, warmup=True, **options)))

    driver.set_active(_Driver(capability))
    JITFunction.run = compile_only
    try:
        yield used
    finally:
        JITFunction.run = launch


def _measure(name: str, kernel: Any) -> Used:
    tools = triton.knobs.nvidia
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        resources = _output(tools.cuobjdump.path, "--dump-resource-usage", file.name)
        assembly = _output(tools.nvdisasm.path, "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", resources)
    assert found, resources
    opcodes = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]+)", assembly, re.MULTILINE)
    return Used(
        name,
        int(found[1]),
        int(found[2]),
        kernel.metadata.shared,
        kernel.metadata.num_warps,
        dict(Counter(opcodes)),
    )


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def launches(*, fp8: bool) -> list[Callable[[], object]]:
    """Every launch of a step of a 7B, with few rows and with many.

    Args:
        fp8: whether the GPU has 8-bit floats.
    """
    from model.cuda.attention import attend_filled
    from model.cuda.inputs import StepInputs
    from model.cuda.layers import add_and_normalise, gate, rotate_and_write
    from model.cuda.product import blocks_for, multiply
    from model.cuda.sampling import draw
    from model.quantized_matrix import GROUP, QuantizedMatrix
    from model.sampler.state import SamplerState

    def numbers(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    def whole(*shape: int) -> Tensor:
        return numbers(*shape, dtype=torch.int64)

    def attention(rows: int, parts: int) -> object:
        return attend_filled(numbers(rows, HEADS, WIDTH), keys, values, whole(rows), whole(rows), parts=parts)

    def rounded_attention() -> object:
        own_keys, own_values = numbers(2, *keys.shape, dtype=torch.float8_e4m3fn)
        scales = numbers(2, *keys.shape[:-1], dtype=torch.float32)
        queries = numbers(ROWS, HEADS, WIDTH)
        return attend_filled(queries, own_keys, own_values, whole(ROWS), whole(ROWS), scales=scales, parts=1)

    def rounded_writing() -> object:
        own_keys, own_values = numbers(2, *keys.shape, dtype=torch.float8_e4m3fn)
        scales = numbers(2, *keys.shape[:-1], dtype=torch.float32)
        rows = whole(ROWS)
        joined = numbers(ROWS, 3 * HIDDEN)
        return rotate_and_write(joined, rotations, rows, rows, own_keys, own_values, heads=HEADS, scales=scales)

    def drawing(*, logprobs: bool) -> None:
        meta = torch.device("meta")
        inputs = StepInputs(ROWS, spare_row=ROWS, device=meta)
        state = SamplerState.of(
            rows=ROWS, tokens=TOKENS, vocabulary=VOCABULARY, grid=24, device=meta, logprobs=logprobs
        )
        draw(numbers(ROWS, VOCABULARY, dtype=torch.float32), inputs, state)

    def multiplying(rows: int, quantization: Quantization) -> object:
        values = {"int8": torch.int8, "int4": torch.uint8, "fp8": torch.float8_e4m3fn}[quantization]
        packed = HIDDEN // 2 if quantization == "int4" else HIDDEN
        groups = HIDDEN // GROUP if quantization == "int4" else 1
        scales = numbers(3 * HIDDEN, groups, dtype=torch.float32)
        matrix = QuantizedMatrix(numbers(3 * HIDDEN, packed, dtype=values), scales, HIDDEN)
        return multiply(numbers(rows, HIDDEN), matrix, blocks_for(rows, 3 * HIDDEN, HIDDEN, 132))

    keys, values = numbers(2, ROWS + 1, HEADS, 832, WIDTH)
    rotations = numbers(2, 16384, WIDTH, dtype=torch.float32)
    return [
        lambda: attention(2, parts=8),
        lambda: attention(ROWS, parts=1),
        lambda: add_and_normalise(numbers(ROWS, HIDDEN), numbers(ROWS, HIDDEN), numbers(HIDDEN), 1e-6),
        lambda: rotate_and_write(
            numbers(ROWS, 3 * HIDDEN), rotations, whole(ROWS), whole(ROWS), keys, values, heads=HEADS
        ),
        lambda: gate(numbers(ROWS, 2 * INNER)),
        lambda: drawing(logprobs=False),
        lambda: drawing(logprobs=True),
        lambda: multiplying(2, "int8"),
        lambda: multiplying(2, "int4"),
        lambda: multiplying(ROWS, "int4"),
        *([lambda: multiplying(2, "fp8"), rounded_attention, rounded_writing] if fp8 else []),
    ]


if __name__ == "__main__":
    capability = int(sys.argv[1].removeprefix("sm_"))
    with compiling(capability) as used:
        for launch in launches(fp8=capability >= 89):
            launch()
    for one in used:
        print(json.dumps(one._asdict()))
