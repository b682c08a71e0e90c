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
    gained: codes that the latest step added.
    previews: previews made so far.
    prompt_lengths: tokens of each row's prompt.
    has_twin: whether its guesses began as the codes of a finished picture with the same seed.
    added, expected: codes that its windows added beyond the first ones, and that such images' windows add on average.
    """

    state: JobState
    index: int
    rows: tuple[int, ...]
    sampled: int = 0
    gained: int = 0
    previews: int = 0
    prompt_lengths: tuple[int, ...] = ()
    has_twin: bool = False
    added: int = 0
    expected: float = 0.0

    @property
    def seed(self) -> int:
        return self.state.job.seeds[self.index]

    def preview_row(self, grid: int) -> int | None:
        """The last line of `grid` codes that the latest step completed and that a preview is asked for."""
        lines = range(self.sampled // grid, (self.sampled - self.gained) // grid, -1)
        return next((line for line in lines if line in self.state.job.preview_rows), None)
