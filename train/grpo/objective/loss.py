"""The objective of GRPO, token by token, as pure functions (paper, equation 3).

Every function takes and returns float32 [B, tokens] unless stated otherwise.
"""

import torch
from torch import Tensor


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, *, advantages: Tensor, credit: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """−w · min(ρ A, clip(ρ, 1 − low, 1 + high) A) with ρ = π / π_old.

    Args:
        logprobs: of the sampled codes under the policy π, with gradient.
        old_logprobs: under the policy that drew them; equal to `logprobs` at the first update.
        advantages: A, [B].
        credit: w, how much of the advantage each token gets; its mean over an image is 1.
        clip_low: how far below 1 the ratio is followed.
        clip_high: how far above 1.
    """
    ratio = (logprobs - old_logprobs).exp()
    gain = advantages[:, None]
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -credit * torch.minimum(ratio * gain, clipped * gain)


def clipped(logprobs: Tensor, old_logprobs: Tensor, *, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """Whether the clip removes a token's gradient: bool [B, tokens]."""
    ratio = (logprobs - old_logprobs).exp()
    gain = advantages[:, None]
    return ((ratio > 1 + clip_high) & (gain > 0)) | ((ratio < 1 - clip_low) & (gain < 0))


def rollout_weight(trainer_logprobs: Tensor, rollout_logprobs: Tensor, *, limit: float) -> Tensor:
    """Importance weight π_trainer / π_rollout of each token, at most `limit`.

    Rollout and training round differently: by about 1e-5 in float32, much more in bfloat16. The limit bounds the
    variance of the weights (truncated importance sampling, Ionides 2008).
    """
    return (trainer_logprobs - rollout_logprobs).exp().clamp(max=limit)


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """r − log r − 1 with r = π_ref / π at the sampled codes (paper, equation 4).

    Value: an unbiased estimate of KL(π ‖ π_ref) for codes sampled from π. Gradient: in a loss, an unbiased estimate of
    the gradient of KL(π_ref ‖ π), the other direction.
    """
    difference = ref_logprobs - logprobs
    return difference.exp() - difference - 1


def codebook_kl(log_policy: Tensor, log_reference: Tensor) -> Tensor:
    """KL(π ‖ π_ref) summed over the whole codebook: exact, in value and gradient.

    Args:
        log_policy: log-probabilities of all codes, [B, tokens, V], −∞ where a filter removed a code.
        log_reference: likewise, of the reference.
    """
    difference = torch.where(log_policy.isneginf(), 0.0, log_policy - log_reference)
    return (log_policy.exp() * difference).sum(-1)


def entropy(log_policy: Tensor) -> Tensor:
    """Entropy in nats of each token's distribution; `log_policy` is [B, tokens, V]."""
    return -(log_policy.exp() * torch.where(log_policy.isneginf(), 0.0, log_policy)).sum(-1)
