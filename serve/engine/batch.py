"""The input of one step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.attention import Rows
from model.sampler import Sampler, SamplerBatch
from serve.engine.slot import Slot


@dataclass(frozen=True)
class Batch:
    """The running slots in the form the device needs; rebuilt only when one joins or leaves.

    previewed: the slots whose jobs asked for previews.
    rows: the KV rows of all slots, conditional and unconditional rows of a slot side by side.
    sampler: the images as the sampler needs them.
    """

    slots: tuple[Slot, ...]
    previewed: tuple[Slot, ...]
    rows: Rows
    sampler: SamplerBatch

    @classmethod
    def of(cls, slots: Sequence[Slot], sampler: Sampler, device: torch.device) -> "Batch":
        """Build from the scheduler's running slots."""
        return cls(
            tuple(slots),
            tuple(slot for slot in slots if slot.state.job.preview_rows),
            Rows.of([row for s in slots for row in s.rows], [place for s in slots for place in s.positions], device),
            sampler.batch(
                first_rows(slots),
                [len(slot.rows) for slot in slots],
                [slot.state.job.params for slot in slots],
                [slot.seed for slot in slots],
                [slot.sampled for slot in slots],
            ),
        )


def first_rows(slots: Sequence[Slot]) -> list[int]:
    """The first KV row of each slot, which is also its image's row in the sampler."""
    return [slot.rows[0] for slot in slots]
