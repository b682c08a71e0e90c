"""From logits to a code: guidance, filters, and the Gumbel arg-max."""

import torch
from torch import Tensor

from model.noise import gumbel
from model.params import SamplingParams


def guide(conditional: Tensor, unconditional: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance, u + g (c − u), on logits [..., V] (Janus, section 2.3)."""
    return unconditional + guidance_scale * (conditional - unconditional)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits [..., V] with everything below the k-th largest at −∞; k = 0 or k ≥ V keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits [..., V] with everything past the smallest set that reaches probability p at −∞.

    Probabilities are summed in float64 if the device supports it (MPS does not): for 16,384 codes in float32, the
    last code kept would depend on the order of summation.
    """
    if p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    shares = ordered.softmax(-1, dtype=torch.float32 if logits.device.type == "mps" else torch.float64)
    before = shares.cumsum(-1) - shares
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter_(-1, order, before >= p)
    return logits.masked_fill(dropped, -torch.inf)


def filtered(logits: Tensor, params: SamplingParams) -> Tensor:
    """Filter guided logits [..., V] for sampling: divide by temperature, then top-k, then top-p.

    The temperature must be above 0.
    """
    return keep_top_p(keep_top_k(logits / params.temperature, params.top_k), params.top_p)


def sample(logits: Tensor, params: SamplingParams, *, seeds: Tensor, positions: Tensor) -> Tensor:
    """Sample one code for each image from its guided logits.

    Args:
        logits: [N, V].
        params: shared by all images.
        seeds: int64 [N].
        positions: int64 [N], index of the code in its image.

    Returns:
        int64 [N]; the lowest code wins a tie.
    """
    logits = logits.float()
    if params.temperature == 0:
        return logits.argmax(-1)
    noise = gumbel(seeds, positions, logits.shape[-1])
    return (filtered(logits, params) + noise).argmax(-1)
