"""Results of a part, one JSON object a line."""

import gc
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Result:
    """Time of something that is done again and again, or a number of the card.

    part: of the bench.
    name: unique within the part.
    seconds: of the device, each time.
    host: seconds that the host was busy with it, if they were measured.
    bytes, flops: least that must be read or written, and computed, each time; 0 if it has no floor.
    images: pictures that it advances or draws; 0 if none.
    whole: whether it draws whole pictures, rather than one code of each.
    peak: most bytes of tensors on the device meanwhile, if they were measured.
    """

    part: str
    name: str
    seconds: float
    host: float | None = None
    bytes: int = 0
    flops: int = 0
    images: int = 0
    whole: bool = False
    peak: int | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def peak_of(device: torch.device) -> int | None:
    """Most bytes of tensors on a CUDA device since its statistics were reset."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def forget(device: torch.device) -> None:
    """Give back the memory of what was dropped, and count the peak anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
