"""The codes of all images being drawn, as the sampler keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from model.attention import Rows
from model.params import SamplingParams

MOST_FED = 64  # codes in a step of windows, at least; a batch with more rows than that is fed one code a row


@dataclass(frozen=True)
class SampledImage:
    """An image that is sampled with others.

    rows: of the KV cache, the conditional one first; that is also its row in the sampler.
    prompt_lengths: tokens before the first code, in each of the rows.
    sampled: codes so far.
    """

    rows: tuple[int, ...]
    prompt_lengths: tuple[int, ...]
    params: SamplingParams
    seed: int
    sampled: int = 0


@dataclass(frozen=True)
class SamplerState:
    """Codes of every row, whether an image is in it or not. All on one device, in memory that is kept.

    codes: int64 [rows, tokens]; from the image's number of codes on, guesses.
    guessed: int64 [rows], how many places have a code or a guess that was drawn.
    sums: float32 [rows], sums of an image's guided logits: finite as long as all of them are.
    logprobs: float32 [rows, tokens], log-probabilities of the codes; [0, tokens] if they are not wanted.
    vocabulary: V, the number of codes to choose from.
    grid: codes in a line of the picture.
    """

    codes: Tensor
    guessed: Tensor
    sums: Tensor
    logprobs: Tensor
    vocabulary: int
    grid: int

    @classmethod
    def of(
        cls, *, rows: int, tokens: int, vocabulary: int, grid: int, device: torch.device, logprobs: bool
    ) -> "SamplerState":
        """Allocate `rows` rows of `tokens` codes each."""
        return cls(
            torch.zeros(rows, tokens, dtype=torch.int64, device=device),
            torch.zeros(rows, dtype=torch.int64, device=device),
            torch.zeros(rows, dtype=torch.float32, device=device),
            torch.zeros(rows if logprobs else 0, tokens, dtype=torch.float32, device=device),
            vocabulary,
            grid,
        )

    @property
    def tokens(self) -> int:
        """Codes of an image."""
        return self.codes.shape[1]


def windows_of(widths: Sequence[int], sampled: Sequence[int], tokens: int) -> tuple[int, ...]:
    """Places that a step computes of each image: as many as wanted, fewer at its end, at least 1."""
    return tuple(max(1, min(width, tokens - have)) for width, have in zip(widths, sampled, strict=True))


class SamplerBatch(Protocol):
    """N images that are sampled together, until one joins or leaves.

    codes: int64 [T or more], fed in the next step: of each row of each image, the latest code and then the guesses.
    rows: row and position of each of them; `rows.count` is T.
    """

    codes: Tensor
    rows: Rows

    def widen(self, widths: Sequence[int]) -> None:
        """Set how many places each image computes in the next steps; fewer at its end. At least 1 each."""

    def sample(self, logits: Tensor) -> Sequence[int]:
        """Draw every place of the windows, and add the codes that are confirmed.

        Args:
            logits: float32 [T, V] of the codes that were fed. An image without codes has those of its prompts.

        Returns:
            For each image, how many codes were added: at least 1.
        """
