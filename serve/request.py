"""A request and its images' slots: what is asked for, and how far it has come."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from model.params import SamplingParams

if TYPE_CHECKING:
    from model.kv_cache import Prefix  # brings torch, and jobs are made where there is none

Status = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Job:
    """n pictures of one prompt, checked and complete: nothing is left to a default.

    `preview_rows` says after how many rows of codes a preview is wanted; `deadline` is a time of the
    monotonic clock after which nobody wants the pictures any more.
    """

    prompt: list[int]
    negative_prompt: list[int] | None
    seeds: tuple[int, ...]
    params: SamplingParams
    preview_rows: frozenset[int] = frozenset()
    deadline: float | None = None


@dataclass(eq=False)
class Request:
    """A job on its way through the engine; the engine's thread alone touches it."""

    job: Job
    admitted: int = 0  # images that were given a slot
    ended: int = 0  # images that came, or failed
    prefixes: "tuple[Prefix, ...] | None" = None  # prompt, and what it is guided away from
    status: Status = "waiting"

    @property
    def images(self) -> int:
        """n."""
        return len(self.job.seeds)

    @property
    def rows_each(self) -> int:
        """Rows of the cache that each image takes."""
        return 2 if self.job.params.guided else 1

    @property
    def live(self) -> bool:
        """Whether anybody still waits for it."""
        return self.status in ("waiting", "running")


@dataclass(eq=False)
class Slot:
    """One image that is being drawn: its rows of the cache, how many codes it has and previews it gave.

    `rows` are the conditional row and, when guided, the unconditional one.
    """

    request: Request
    index: int
    rows: tuple[int, ...]
    drawn: int = 0
    previews: int = 0
    prompt_lengths: tuple[int, ...] = field(default=())

    @property
    def seed(self) -> int:
        """The image's seed."""
        return self.request.job.seeds[self.index]

    @property
    def positions(self) -> tuple[int, ...]:
        """Where each row's next token goes."""
        return tuple(length + self.drawn - 1 for length in self.prompt_lengths)
