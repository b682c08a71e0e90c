"""Devices and dtypes by name, and copies of numbers from the host to a device."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from model.errors import CheckpointError
from model.quantization import Quantization
from model.vector_math import warm_up_vector_math

Device = Literal["auto", "cpu", "cuda", "mps"] | str
DType = Literal["auto", "source", "float32", "bfloat16", "float16"]


def choose_device(device: Device) -> torch.device:
    """Choose an available device and prepare it; "auto" takes cuda, then mps, then cpu.

    Raises:
        CheckpointError: this machine has no such device.
    """
    warm_up_vector_math()
    here = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if device == "auto":
        return torch.device(next(kind for kind, count in here.items() if count))
    try:
        chosen = torch.device(device)
    except RuntimeError:  # PyTorch does not know the name
        chosen = None
    if chosen is None or (chosen.index or 0) >= here.get(chosen.type, 0):
        raise CheckpointError(f"no device {device!r} here: give auto, or one of cpu, cuda and mps")
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)  # Triton's kernels run on the current one, which "cuda" stands for
    return chosen


def choose_dtype(dtype: str, device: torch.device, held: torch.dtype) -> torch.dtype:
    """Resolve a dtype name; `held` is the dtype in the files. Raises CheckpointError for an unknown name."""
    if dtype == "source":
        return held
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(dtype)
    if chosen is None:
        raise CheckpointError(f"dtype: must be auto, source, float32, bfloat16 or float16, got {dtype!r}")
    return chosen


def upload(values: Sequence[int] | Sequence[float] | Sequence[bool], device: torch.device) -> Tensor:
    """Copy numbers to a tensor on a device: int64, float32 or bool. On CUDA the host does not wait for the copy."""
    # explicit: while another thread loads a model, the default dtype may differ
    dtype = torch.float32 if values and isinstance(values[0], float) else None
    tensor = torch.tensor(values, dtype=dtype) if values else torch.zeros(0, dtype=torch.int64)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def check_quantization(quantization: Quantization, device: torch.device) -> None:
    """Refuse rounded weights that nothing multiplies fast on a device.

    Raises:
        CheckpointError: the device is too old, or of another kind.
    """
    if device.type != "cuda" and quantization != "int8":
        raise CheckpointError(f"{quantization} weights need an NVIDIA GPU: give int8")
    if device.type == "cuda" and quantization == "fp8" and torch.cuda.get_device_capability(device) < (8, 9):
        raise CheckpointError("fp8 weights need an NVIDIA GPU of compute capability 8.9 or more: give int8")
