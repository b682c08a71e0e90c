"""A generator whose pictures are plain colours that follow from prompt and seed."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from bench.pictures.generator import Drawings, Drawn
from bench.pictures.picture import Part

SIDE = 8


def colour(prompt: str, seed: int) -> tuple[int, int, int]:
    """Colour of a picture."""
    digest = zlib.crc32(f"{prompt} {seed}".encode())
    return digest & 255, digest >> 8 & 255, digest >> 16 & 255


class ColouredGenerator:
    """Draws in reverse order, with 16 codes or without; stops with `stop` after so many drawings."""

    def __init__(
        self,
        *,
        model: str = "colours",
        codes: bool = False,
        after: int | None = None,
        stop: BaseException | None = None,
    ) -> None:
        self._model, self._codes, self._after, self._stop = model, codes, after, stop
        self.drawn: list[Part] = []

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"generator": "colours", "model": self._model, "sampling": {"guidance_scale": 2.0}}

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"commit": "0123456789"}

    def draw(self, parts: Sequence[Part]) -> Drawings:
        for part in reversed(parts):
            if len(self.drawn) == self._after:
                assert self._stop is not None
                raise self._stop
            self.drawn.append(part)
            codes = [*([7] * 12), *colour(part.prompt, part.seed), 7] if self._codes else None
            yield Drawn(part, Image.new("RGB", (SIDE, SIDE), colour(part.prompt, part.seed)), codes)
