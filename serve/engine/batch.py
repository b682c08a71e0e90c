"""The input of one step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.sampler.sampler import Sampler
from model.sampler.state import SampledImage, SamplerBatch
from serve.engine.slot import Slot


@dataclass(frozen=True)
class Batch:
    """The running slots in the form the device needs; rebuilt only when one joins or leaves.

    previewed: the slots whose jobs asked for previews.
    widths: places of each slot that a step computes; fewer at an image's end.
    sampler: codes, and where they go in the cache, conditional and unconditional rows of a slot side by side.
    """

    slots: tuple[Slot, ...]
    previewed: tuple[Slot, ...]
    widths: tuple[int, ...]
    sampler: SamplerBatch

    @classmethod
    def of(cls, slots: Sequence[Slot], widths: Sequence[int], sampler: Sampler) -> "Batch":
        """Build from the scheduler's running slots."""
        return cls(
            tuple(slots),
            tuple(slot for slot in slots if slot.state.job.preview_rows),
            tuple(widths),
            sampler.batch(
                [
                    SampledImage(slot.rows, slot.prompt_lengths, slot.state.job.params, slot.seed, slot.sampled)
                    for slot in slots
                ],
                widths,
            ),
        )

    def widened(self, widths: Sequence[int]) -> "Batch":
        """The same slots with other widths."""
        self.sampler.widen(widths)
        return replace(self, widths=tuple(widths))


def first_rows(slots: Sequence[Slot]) -> list[int]:
    """The first KV row of each slot, which is also its image's row in the sampler."""
    return [slot.rows[0] for slot in slots]
