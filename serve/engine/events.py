"""Events of a job, in this order.

Queued
├── Started     for each image: it has a slot
├── Preview …   if asked for
└── Finished, or Failed
Ended           once, the last event of every job that is not cancelled
"""

from dataclasses import dataclass
from typing import Literal

from PIL import Image


@dataclass(frozen=True)
class Queued:
    """The job was accepted. `ahead` images wait before it; it starts in about `wait_seconds`."""

    ahead: int
    wait_seconds: float


@dataclass(frozen=True)
class Started:
    """An image has a slot and is being drawn."""

    index: int


@dataclass(frozen=True)
class Preview:
    """An image after `rows` rows of codes; the rest of the picture is filled in."""

    index: int
    rows: int
    picture: Image.Image


@dataclass(frozen=True)
class Finished:
    """An image is complete: its picture, and the codes [tokens] it was decoded from, in raster order.

    `logprobs` has the log-probability of each code under the distribution it was sampled from, if the engine keeps them.
    """

    index: int
    picture: Image.Image
    codes: tuple[int, ...]
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Failed:
    """One image cannot be drawn; the others of its job go on. `reason` is for people."""

    index: int
    reason: str


Cause = Literal["deadline", "queue full", "engine died", "stopping"]


@dataclass(frozen=True)
class Ended:
    """The job is over. `cause` is None when every image finished or failed; else the missing ones will not come."""

    cause: Cause | None = None
    reason: str = ""


Event = Queued | Started | Preview | Finished | Failed | Ended
