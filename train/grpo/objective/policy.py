"""The policy that GRPO trains: the distribution that codes are sampled from, guidance included."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.params import SamplingParams
from model.prompt import SpecialIds, unconditional_row
from model.sampling import filtered, guide

PolicyLogits = Literal["sampled", "as_published"]


@dataclass(frozen=True)
class PromptTable:
    """The prompts of some pictures, and their unconditional rows, each once.

    ids, mask: int64 [P, T], left-padded; mask is 0 at the padding.
    conditional: int64 [B], row of `ids` that is the prompt of each picture.
    unconditional: int64 [B], row of the unconditional prompt of the same length.
    """

    ids: Tensor
    mask: Tensor
    conditional: Tensor
    unconditional: Tensor

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], special: SpecialIds, device: torch.device) -> "PromptTable":
        """Build from the prompt of each of B pictures, as token ids with their frame."""
        rows: dict[tuple[int, ...], int] = {}
        conditional = [rows.setdefault(tuple(prompt), len(rows)) for prompt in prompts]
        unconditional = [
            rows.setdefault(tuple(unconditional_row(len(prompt), special)), len(rows)) for prompt in prompts
        ]
        longest = max(map(len, rows))
        ids = torch.tensor([[special.pad] * (longest - len(row)) + list(row) for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        return cls(ids, mask, torch.tensor(conditional, device=device), torch.tensor(unconditional, device=device))


@dataclass(frozen=True)
class Scores:
    """Log-probabilities and logits of B pictures under a policy.

    logprobs: float32 [B, tokens], log-probabilities of their codes.
    distribution: float32 [B, tokens, V], log-probabilities of all codes; −∞ where a filter removed one.
    conditional, unconditional: float32 [B, tokens, V], logits with and without the prompt; equal if unguided.
    """

    logprobs: Tensor
    distribution: Tensor
    conditional: Tensor
    unconditional: Tensor


def score(
    image_logits: Callable[..., Tensor],
    prompts: PromptTable,
    codes: Tensor,
    params: SamplingParams,
    *,
    logp: PolicyLogits = "sampled",
    kept: Tensor | None = None,
) -> Scores:
    """Score pictures under the policy: log-softmax in float32 of exactly the logits that are sampled from.

    Args:
        image_logits: of the network (`train.weights.image_logits.ImageLogits`). Gradients flow through both rows.
        prompts: of the pictures.
        codes: int64 [B, tokens].
        params: settings that the pictures were sampled with; the temperature must be above 0.
        logp: "sampled" is the distribution that is sampled from. "as_published" divides guided logits by g, as the
            released code does, and ignores temperature and filters: the policy scored is then g times hotter.
        kept: bool [B, tokens, V], codes that the filters of the sampling policy kept. None means that these
            logits are the sampling policy's, and are filtered.
    """
    if params.guided:
        both = torch.cat([prompts.conditional, prompts.unconditional])
        logits = image_logits(prompts.ids, prompts.mask, codes.repeat(2, 1), both)
        conditional, unconditional = logits.chunk(2)
        guided = guide(conditional, unconditional, params.guidance_scale)
    else:
        conditional = unconditional = guided = image_logits(prompts.ids, prompts.mask, codes, prompts.conditional)
    if logp == "as_published":
        kept_logits = guided / params.guidance_scale
    elif kept is None:
        kept_logits = filtered(guided, params)
    else:
        kept_logits = (guided / params.temperature).masked_fill(~kept, -torch.inf)
    distribution = kept_logits.log_softmax(-1)
    logprobs = distribution.gather(-1, codes[..., None])[..., 0]
    return Scores(logprobs, distribution, conditional, unconditional)
