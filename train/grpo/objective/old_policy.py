"""Log-probabilities of a step's samples under the policy that drew them."""

import numpy as np
import torch
from torch import Tensor

from train.grpo.objective.policy import Scores
from train.ranks import Ranks


class OldPolicy:
    """Log-probabilities of a step's N samples under the policy that drew them, float32 [N, tokens].

    logprobs: NaN where not known yet; then filled in with those before the step's first update, as they are computed.

    Args:
        codes: int64 [N, tokens], the samples.
        filtered: whether filters (top-k, top-p) restrict the codes; the codes they keep are then stored as well.
    """

    def __init__(self, codes: Tensor, *, filtered: bool) -> None:
        self.logprobs = torch.full(codes.shape, torch.nan)
        self._first = torch.full(codes.shape, torch.nan)  # before the first update
        self._stored: set[int] = set()
        self._filtered = filtered
        self._kept: dict[int, Tensor] = {}
        self._vocabulary = 0

    def remember(self, numbers: list[int], scores: Scores) -> None:
        """Store the scores of samples, unless they were stored before."""
        if self._stored.issuperset(numbers):
            return
        self._stored.update(numbers)
        self._first[numbers] = scores.logprobs.detach().cpu()
        self.logprobs[numbers] = torch.where(
            self.logprobs[numbers].isnan(), self._first[numbers], self.logprobs[numbers]
        )
        if self._filtered:
            kept = ~scores.distribution.isneginf().cpu()
            self._vocabulary = kept.shape[-1]
            packed = torch.from_numpy(np.packbits(kept.numpy(), axis=-1))
            self._kept |= dict(zip(numbers, packed, strict=True))

    def gather(self, ranks: Ranks) -> Tensor:
        """Log-probabilities before the first update of all samples that any process has scored; NaN for the others."""
        whole = self._first
        for other in ranks.gather(self._first):
            whole = torch.where(whole.isnan(), other, whole)
        return whole

    def kept(self, numbers: list[int]) -> Tensor | None:
        """Codes that the filters kept for these samples, bool [B, tokens, V] on the CPU.

        None without filters, or if the samples were not stored yet: then the network still is the old policy.
        """
        if not self._filtered or numbers[0] not in self._kept:
            return None
        packed = torch.stack([self._kept[number] for number in numbers]).numpy()
        return torch.from_numpy(np.unpackbits(packed, axis=-1, count=self._vocabulary)).bool()
