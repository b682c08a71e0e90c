"""Rows of supervised fine-tuning: a prompt, and the codes of a picture of it."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from train.data.codes import CodeCache
from train.data.pairs import PairSource
from train.data.scenes import SceneSource


class Rows(Protocol):
    """Numbered rows."""

    def __len__(self) -> int:
        """Number of rows."""

    def prompt(self, index: int, epoch: int) -> str:
        """Prompt of a row; its wording may change from epoch to epoch."""

    def codes(self, index: int) -> Tensor:
        """Codes of a row's picture, int64 [tokens] on the CPU."""


@dataclass(frozen=True)
class SceneRows:
    """Scenes of the procedural world, whose pictures were encoded before: `encoded` is [rows, tokens]."""

    source: SceneSource
    encoded: Tensor

    def __len__(self) -> int:
        return len(self.encoded)

    def prompt(self, index: int, epoch: int) -> str:
        return self.source.caption(index, epoch)

    def codes(self, index: int) -> Tensor:
        return self.encoded[index].long()


class PairRows:
    """The prompts of pairs, each with its own picture.

    Args:
        source: with pictures; if its length is that of an endless source, every pair must have two prompts.
        cache: encodes the pictures.
    """

    def __init__(self, source: PairSource, cache: CodeCache) -> None:
        self._source, self._cache = source, cache
        self._places: list[tuple[int, int]] | None = None
        if len(source) < 2**31:
            counts = [len(source.prompts(index)) for index in range(len(source))]
            self._places = [(index, own) for index, count in enumerate(counts) for own in range(count)]

    def __len__(self) -> int:
        return 2 * len(self._source) if self._places is None else len(self._places)

    def prompt(self, index: int, epoch: int) -> str:
        pair, own = self._place(index)
        return self._source.prompts(pair)[own]

    def codes(self, index: int) -> Tensor:
        pair, own = self._place(index)
        return self._cache.codes(self._source.pictures(pair)[own])

    def _place(self, index: int) -> tuple[int, int]:
        return divmod(index, 2) if self._places is None else self._places[index]
