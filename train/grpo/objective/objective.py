"""The gradient of a step: score, credit, loss and backward pass, one micro-batch after another."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.janus import Janus
from train.grpo.metrics import Means
from train.grpo.objective.advantage import Advantages
from train.grpo.objective.credit_allocator import CreditAllocator
from train.grpo.objective.loss import clipped, codebook_kl, entropy, k3, policy_loss, rollout_weight
from train.grpo.objective.micro_batches import MicroBatch, micro_batches
from train.grpo.objective.old_policy import OldPolicy
from train.grpo.objective.policy import Scores, score
from train.grpo.recipe import GRPORecipe
from train.grpo.rollout.samples import Samples
from train.ranks import ALONE, Ranks
from train.weights.reference import Reference
from train.weights.weights import Weights


class Objective:
    """The objective of a step (paper, equation 3) and its gradient.

    credit: credit weights [tokens] of the samples of the latest `backward`, by number; in this process, of its share.

    Args:
        janus: encodes prompts.
        weights: of the policy.
        recipe: the objective's settings.
        reference: for the KL term; None if its weight is 0.
        ranks: the processes that share the samples.
    """

    def __init__(
        self, janus: Janus, weights: Weights, recipe: GRPORecipe, reference: Reference | None, ranks: Ranks = ALONE
    ) -> None:
        self._janus, self._weights, self._recipe = janus, weights, recipe
        self._reference, self._ranks = reference, ranks
        self._credit = CreditAllocator(janus, weights, recipe.credit)
        self.credit: dict[int, Tensor] = {}

    def old_policy(self, samples: Samples) -> OldPolicy:
        """Make the old policy, which the first `backward` fills in.

        Samples that older weights drew keep the rollout's log-probabilities; ground truth is scored by the present ones.
        """
        params = self._recipe.rollout.params
        filters = 0 < params.top_k < self._janus.codebook_size or params.top_p < 1
        old = OldPolicy(samples.codes, filtered=filters and self._recipe.loss.logp == "sampled")
        if self._recipe.rollout.staleness:
            drawn = samples.places.is_rollout
            old.logprobs[drawn] = samples.rollout_logprobs[drawn]
        return old

    def backward(self, samples: Samples, advantages: Advantages, old: OldPolicy, means: Means) -> None:
        """Add the gradient to that of the parameters; in each process, the gradient of all samples is added.

        The objective is a mean over all tokens of the step. Samples without advantage cost nothing and change nothing,
        but count as tokens; with `dead_groups = "keep"`, they are trained on the KL term.
        """
        recipe = self._recipe
        self.credit = {}
        chosen = advantages.values != 0
        if self._reference is not None and recipe.advantage.dead_groups == "keep":
            chosen = advantages.scored
        size, ranks = recipe.update.micro_batch, self._ranks
        batches = micro_batches(samples, advantages, chosen, size, self._janus, ranks)
        for number, batch in enumerate(batches, start=1):
            with self._weights.backward(last=number == len(batches)):
                losses = self.losses(batch, old, means)
                # gradients are averaged over processes, but the objective is a sum over all samples
                torch.autograd.backward(ranks.count * losses.sum() / samples.codes.numel())

    def losses(self, batch: MicroBatch, old: OldPolicy, means: Means) -> Tensor:
        """Loss of each token of a micro-batch, float32 [B, tokens]; `old` and `means` collect its scores."""
        recipe = self._recipe.loss
        scores = self._score(batch, old.kept(batch.numbers))
        old.remember(batch.numbers, scores)
        before = old.logprobs[batch.numbers].to(batch.codes.device)
        # the rollout's filters can exclude codes of ground truth: these have no ratio
        inside = before.isfinite() & scores.logprobs.isfinite() & batch.counted
        logprobs, before = scores.logprobs.masked_fill(~inside, 0.0), before.masked_fill(~inside, 0.0)
        rollout = inside & batch.is_rollout
        credit = self._credit(batch, scores)
        self.credit |= dict(zip(batch.numbers, credit.cpu(), strict=True))
        losses = policy_loss(
            logprobs,
            before,
            advantages=batch.advantages,
            credit=credit,
            clip_low=recipe.clip_low,
            clip_high=recipe.clip_high,
        )
        weight = rollout_weight(before, batch.rollout_logprobs, limit=recipe.rollout_weight_limit)
        losses = losses * torch.where(rollout, weight, 1.0) * inside
        if self._reference is not None:
            with torch.no_grad():
                reference = self._score(batch, old.kept(batch.numbers), reference=True)
            if recipe.kl == "codebook":
                kl = codebook_kl(scores.distribution, reference.distribution)
            else:
                kl = k3(logprobs, reference.logprobs.masked_fill(~inside, 0.0))
            counted = inside if self._recipe.ground_truth.kl else rollout
            losses = losses + recipe.beta * kl.masked_fill(~counted, 0.0)
            means.add("kl", kl, rollout)
        is_clipped = clipped(
            logprobs, before, advantages=batch.advantages, clip_low=recipe.clip_low, clip_high=recipe.clip_high
        )
        means.add("clip share", is_clipped.float(), inside)
        means.add("entropy", entropy(scores.distribution.detach()), rollout)
        return losses

    def _score(self, batch: MicroBatch, kept: Tensor | None, *, reference: bool = False) -> Scores:
        logits: Callable[..., Tensor] = self._weights.logits
        if reference:
            assert self._reference is not None
            logits = self._reference.logits
        params, logp = self._recipe.rollout.params, self._recipe.loss.logp
        kept = kept.to(batch.codes.device) if kept is not None else None
        return score(logits, batch.prompts, batch.codes, params, logp=logp, kept=kept)
