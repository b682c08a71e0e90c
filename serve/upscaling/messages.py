"""Messages between a server and the upscaler's process. Imports no torch.

server → upscaler   LoadNetwork, then Upscale, each after the answer to the one before, and Cancel at any time
upscaler → server   NetworkLoaded or an exception, then Upscaled or NotUpscaled for each Upscale
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class LoadNetwork:
    """Load the weights in `file` onto a device."""

    file: Path
    device: str
    log_level: str
    log_format: str


@dataclass(frozen=True)
class NetworkLoaded:
    """The network is ready; a pass multiplies a picture's sides by `scale`."""

    architecture: str
    scale: int


@dataclass(frozen=True, eq=False)
class Upscale:
    """Enlarge a square picture to `side` pixels a side."""

    number: int
    picture: Image.Image
    side: int


@dataclass(frozen=True)
class Cancel:
    """Give up an `Upscale` that was sent, before its next tile."""

    number: int


@dataclass(frozen=True, eq=False)
class Upscaled:
    """The enlarged picture, after `passes` through the network; `reduced` by Lanczos's filter if they made it too large."""

    picture: Image.Image
    passes: int
    reduced: bool


@dataclass(frozen=True)
class NotUpscaled:
    """It was given up or failed; `reason` is for people."""

    reason: str
