"""The objective of SFT, as a pure function."""

from torch import Tensor

from train.sft.batches import Batch


def code_loss(logits: Tensor, batch: Batch, *, unconditional_smoothing: float) -> tuple[Tensor, Tensor]:
    """The training objective, and the mean negative log-likelihood of the true codes; both in nats per code.

    Guidance at scale g weighs a code by c^g / u^(g − 1), c and u being its conditional and unconditional
    probability. In the tails both are guesses: a code whose u is guessed far too small wins, however
    improbable by c. Smoothed labels prevent this by keeping u above a floor, ε / V (docs/tiny.md).

    Args:
        logits: [B, tokens, V] float32.
        batch: gives the codes, and which rows are unconditional.
        unconditional_smoothing: ε.
    """
    logprobs = logits.log_softmax(-1)
    surprise = -logprobs.gather(-1, batch.codes[..., None])[..., 0]
    smoothing = unconditional_smoothing * batch.unconditional[:, None].to(surprise.dtype)
    smoothed = (1 - smoothing) * surprise - smoothing * logprobs.mean(-1)
    return smoothed.mean(), surprise.mean()
