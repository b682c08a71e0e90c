"""A job and its progress. Imports no torch: servers make jobs and have none."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from model.params import SamplingParams

if TYPE_CHECKING:
    from model.kv_cache import Prefix

Status = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, eq=False)
class Job:
    """n images of one prompt, with every setting filled in.

    prompt, negative_prompt: token ids, the frame included. A negative prompt of None means the unconditional row.
    seeds: one for each image.
    params: shared by all images.
    preview_rows: after how many rows of codes a preview is wanted.
    deadline: when the job fails, in seconds of the engine's clock (monotonic); None is never.
    """

    prompt: list[int]
    negative_prompt: list[int] | None
    seeds: tuple[int, ...]
    params: SamplingParams
    preview_rows: frozenset[int] = frozenset()
    deadline: float | None = None

    @property
    def images(self) -> int:
        return len(self.seeds)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, 0 if it has passed; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


@dataclass(eq=False)
class JobState:
    """Progress of a job in an engine.

    admitted: images that were given a slot.
    ended: images that finished or failed.
    prefixes: of the prompt and, when guided, of the unconditional or negative prompt; from when they are read until the last
        image's rows are filled.
    """

    job: Job
    admitted: int = 0
    ended: int = 0
    prefixes: "tuple[Prefix, ...] | None" = None
    status: Status = "waiting"

    @property
    def rows_per_image(self) -> int:
        """KV rows of each image."""
        return 2 if self.job.params.guided else 1

    @property
    def live(self) -> bool:
        """Whether events may still come."""
        return self.status in ("waiting", "running")

    def end_image(self) -> bool:
        """Count an image that finished or failed; returns whether it was the job's last."""
        self.ended += 1
        if self.ended == self.job.images:
            self.status = "done"
        return self.status == "done"
