"""Log-probabilities of a step's samples under the policy that drew them."""

import numpy as np
import torch
from torch import Tensor

from train.grpo.objective.policy import Scores
from train.ranks import Ranks


class OldPolicy:
    """Log-probabilities of a step's N samples before its first update, filled in as they are computed.

    Args:
        codes: int64 [N, tokens], the samples.
        filtered: whether filters (top-k, top-p) restrict the codes; the codes they keep are then stored as well.
    """

    def __init__(self, codes: Tensor, *, filtered: bool) -> None:
        self.logprobs = torch.full(codes.shape, torch.nan)
        self._filtered = filtered
        self._kept: dict[int, Tensor] = {}
        self._vocabulary = 0

    def remember(self, numbers: list[int], scores: Scores) -> None:
        """Store the scores of samples, unless they were stored before."""
        if not self.logprobs[numbers].isnan().all():
            return
        self.logprobs[numbers] = scores.logprobs.detach().cpu()
        if self._filtered:
            kept = ~scores.distribution.isneginf().cpu()
            self._vocabulary = kept.shape[-1]
            packed = torch.from_numpy(np.packbits(kept.numpy(), axis=-1))
            self._kept |= dict(zip(numbers, packed, strict=True))

    def gather(self, ranks: Ranks) -> Tensor:
        """Log-probabilities of all samples that any process has stored, float32 [N, tokens]; NaN for the others."""
        whole = self.logprobs
        for other in ranks.gather(self.logprobs):
            whole = torch.where(whole.isnan(), other, whole)
        return whole

    def kept(self, numbers: list[int]) -> Tensor | None:
        """Codes that the filters kept for these samples, bool [B, tokens, V].

        None without filters, or if the samples were not stored yet: then the network still is the old policy.
        """
        if not self._filtered or numbers[0] not in self._kept:
            return None
        packed = torch.stack([self._kept[number] for number in numbers]).numpy()
        return torch.from_numpy(np.unpackbits(packed, axis=-1, count=self._vocabulary)).bool()
