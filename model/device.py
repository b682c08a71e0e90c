"""Numbers from the host to the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(values: Sequence[int] | Sequence[float] | Sequence[bool], device: torch.device) -> Tensor:
    """Plain numbers as a tensor on a device: int64, float32 or bool; on CUDA the host does not wait for the copy."""
    # said here: the default type may be another one while a model is being loaded in another thread
    dtype = torch.float32 if values and isinstance(values[0], float) else None
    tensor = torch.tensor(values, dtype=dtype) if values else torch.zeros(0, dtype=torch.int64)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
