"""Memory that a run needs in each process, by part."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

GIB = 2**30
# CUDA's context and libraries, buffers of NCCL, graphs, and gaps between tensors: a guess, which nothing computes
ALLOWANCE = 3 * GIB


def short(dtype: torch.dtype) -> str:
    """Name of a dtype, as recipes and commands have it."""
    return str(dtype).removeprefix("torch.")


def counted(numbers: int) -> str:
    """A count as text, in thousands, millions or billions."""
    size, unit = next(
        (size, unit) for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if numbers >= size or unit == "k"
    )
    return f"{numbers / size:.2f} {unit}"


Phase = Literal["held", "drawing", "updating"]
_TITLES: dict[Phase, str] = {"held": "held throughout", "drawing": "between updates", "updating": "during an update"}


@dataclass(frozen=True)
class Part:
    """Bytes of one thing.

    phase: "held" from start to end; the others only at the largest moment of their phase.
    how: what it is computed from.
    """

    phase: Phase
    name: str
    size: int
    how: str


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one process, which has a GPU of its own."""

    parts: tuple[Part, ...]

    def size(self, phase: Phase) -> int:
        """Bytes of a phase's parts."""
        return sum(part.size for part in self.parts if part.phase == phase)

    @property
    def total(self) -> int:
        """Bytes at the largest moment, the allowance included."""
        return self.size("held") + max(self.size("drawing"), self.size("updating")) + ALLOWANCE

    def fits(self, gib: float) -> bool:
        """Whether a GPU with so much memory is enough."""
        return self.total <= gib * GIB

    def lines(self, gib: float) -> Iterator[str]:
        """A table, and whether a GPU of `gib` GiB is enough."""
        yield f"{'memory per GPU':26} {'GiB':>6}"
        for phase, title in _TITLES.items():
            own = [part for part in self.parts if part.phase == phase and part.size]
            if own:
                yield f"{title:26} {self.size(phase) / GIB:6.2f}"
                yield from (f"  {part.name:24} {part.size / GIB:6.2f}  {part.how}" for part in own)
        yield f"{'allowance':26} {ALLOWANCE / GIB:6.2f}  CUDA, NCCL and fragmentation; not computed"
        yield f"{'total':26} {self.total / GIB:6.2f}  held, the larger of the other two, allowance"
        verdict = "fits" if self.fits(gib) else "does not fit"
        yield f"{verdict} in {gib:g} GiB: {abs(gib - self.total / GIB):.1f} GiB {'left' if self.fits(gib) else 'too much'}"
