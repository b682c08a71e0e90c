"""Credit allocation: how the advantage of an image is spread over its tokens, as pure functions.

In the spirit of STAR (arXiv 2606.17979), which spreads one advantage over the regions of a diffusion model's latent. In
a raster of codes, a token is both a place and a step. Weights are w = M / mean(M) of a map M ≥ 0 without gradient, so
the sum over an image is the same as with w = 1. Maps and weights are float32 [B, tokens].
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def credit_weights(maps: Tensor) -> Tensor:
    """Maps divided by their mean over the image; 1 everywhere where a map is 0 everywhere."""
    means = maps.mean(-1, keepdim=True)
    return torch.where(means > 0, maps / means.clamp(min=torch.finfo(maps.dtype).tiny), 1.0)


def guidance_map(conditional: Tensor, unconditional: Tensor, codes: Tensor) -> Tensor:
    """|log p(y | T) − log p(y | ∅)| at the sampled codes: how much the prompt changes each token's probability.

    Args:
        conditional: logits with the prompt, [B, tokens, V].
        unconditional: logits without it.
        codes: int64 [B, tokens].
    """
    return (_logprobs(conditional, codes) - _logprobs(unconditional, codes)).abs()


def pair_map(own: Tensor, other: Tensor, codes: Tensor) -> Tensor:
    """|log p(y | T₁) − log p(y | T₂)|: how much the words that differ change each token's probability.

    Args:
        own: logits with the sample's own prompt, [B, tokens, V].
        other: logits with the other prompt of its pair.
        codes: int64 [B, tokens].
    """
    return (_logprobs(own, codes) - _logprobs(other, codes)).abs()


def shuffle_tokens(weights: Tensor, seeds: Sequence[int]) -> Tensor:
    """Weights in random order within each image, as a control; `seeds` has one for each image."""
    orders = [torch.randperm(weights.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return weights.gather(1, torch.stack(orders).to(weights.device))


def _logprobs(logits: Tensor, codes: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
