"""One image that is being drawn."""

from dataclasses import dataclass

from serve.engine.job import JobState


@dataclass(eq=False)
class Slot:
    """An image and the KV rows it has until it ends.

    state: of the image's job.
    index: number of the image in its job.
    rows: the conditional row and, when guided, the unconditional one.
    sampled: codes so far.
    previews: previews made so far.
    prompt_lengths: tokens of each row's prompt.
    """

    state: JobState
    index: int
    rows: tuple[int, ...]
    sampled: int = 0
    previews: int = 0
    prompt_lengths: tuple[int, ...] = ()

    @property
    def seed(self) -> int:
        return self.state.job.seeds[self.index]

    @property
    def positions(self) -> tuple[int, ...]:
        """Position of the latest code in each row."""
        return tuple(length + self.sampled - 1 for length in self.prompt_lengths)
