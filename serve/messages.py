"""What passes between an engine's loop and whoever takes jobs for it, in this process or from one to another."""

from dataclasses import dataclass

from serve.events import Event
from serve.request import Job


@dataclass(frozen=True)
class Submit:
    """Draw a job; everything about it is told under its number."""

    number: int
    job: Job


@dataclass(frozen=True)
class Cancel:
    """Nobody wants it any more: its slots are free at the next step."""

    number: int


@dataclass(frozen=True)
class Close:
    """Finish what was submitted, then end."""


Command = Submit | Cancel | Close


@dataclass(frozen=True)
class Report:
    """What happened, in order, by the numbers of jobs; and after how long an image that came now would begin."""

    events: tuple[tuple[int, Event], ...]
    wait_seconds: float


@dataclass(frozen=True)
class Died:
    """The loop has ended before it was to; `reason` is for people."""

    reason: str
