"""What happens to a request: Queued, then for each image Started, Preview …, and Finished or Failed."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image


@dataclass(frozen=True)
class Queued:
    """The request was accepted: how many images are before it, and after how many seconds it will begin."""

    ahead: int
    wait_seconds: float


@dataclass(frozen=True)
class Started:
    """An image has its slot and is being drawn."""

    index: int


@dataclass(frozen=True)
class Preview:
    """What an image shows so far: its first `rows` rows of codes; the rest is filled in."""

    index: int
    rows: int
    picture: Image.Image


@dataclass(frozen=True)
class Finished:
    """An image is complete: its picture, and the codes [tokens] that it was decoded from, row by row."""

    index: int
    picture: Image.Image
    codes: tuple[int, ...]


Cause = Literal["not finite", "deadline", "engine died", "stopping"]


@dataclass(frozen=True)
class Failed:
    """An image, or with `index` None every image that has not come yet, will not come; `reason` is for people."""

    index: int | None
    cause: Cause
    reason: str


Event = Queued | Started | Preview | Finished | Failed
