"""Metrics of a training step."""

from collections import defaultdict

import torch
from torch import Tensor

from pairs.scores import arithmetic_mean, geometric_mean
from train.grpo.objective.advantage import Advantages
from train.grpo.rollout.samples import Samples
from train.ranks import Ranks


class Means:
    """Means that are collected piece by piece, by name."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, values: Tensor, where: Tensor) -> None:
        """Add the values at the places where `where`, of the same shape, is true."""
        self._sums[name] += float(values.detach()[where].cpu().double().sum())  # MPS has no float64
        self._counts[name] += float(where.sum())

    def gather(self, ranks: Ranks) -> "Means":
        """The means over what all processes have collected."""
        whole = Means()
        for sums, counts in ranks.gather((dict(self._sums), dict(self._counts))):
            for name in sums:
                whole._sums[name] += sums[name]
                whole._counts[name] += counts[name]
        return whole

    def result(self) -> dict[str, float]:
        """The means; names without any value are left out."""
        return {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name]}


def sample_metrics(samples: Samples, advantages: Advantages) -> dict[str, float]:
    """Metrics of the rewards and advantages of a step.

    reward: mean of the rollouts.
    s_a, s_g: PairComp's scores (paper, section 3.2), each case being two pictures of both prompts of a pair.
    live groups: share of the groups that have any advantages.
    live samples: share of the samples that have an advantage, on which alone is trained.
    failed judgements: share of the samples.
    ground truth advantage, mismatched advantage: of pictures with their own prompt, and with the other one.
    """
    places, means = samples.places, Means()
    judged = ~samples.rewards.isnan()
    means.add("reward", samples.rewards, judged & places.is_rollout)
    arithmetic, geometric = _case_scores(samples)
    means.add("s_a", arithmetic, torch.ones_like(arithmetic, dtype=torch.bool))
    means.add("s_g", geometric, torch.ones_like(geometric, dtype=torch.bool))
    means.add("live groups", advantages.live.float(), torch.ones_like(advantages.live))
    means.add("live samples", (advantages.values != 0).float(), torch.ones_like(judged))
    means.add("failed judgements", (~judged).float(), torch.ones_like(judged))
    matched = places.picture == places.prompt
    means.add("ground truth advantage", advantages.values, ~places.is_rollout & matched & advantages.scored)
    means.add("mismatched advantage", advantages.values, ~places.is_rollout & ~matched & advantages.scored)
    return means.result()


def policy_metrics(samples: Samples, logprobs: Tensor) -> dict[str, float]:
    """Metrics of the log-probabilities of the samples that were trained on, in nats per token.

    `logprobs` is float32 [N, tokens], NaN for the other samples.

    ground truth logprob, mismatched logprob: of pictures with their own prompt, and with the other one.
    rollout gap: mean |Δ log p| between trainer and rollout; largest rollout gap: its maximum.
    """
    places, means = samples.places, Means()
    known = logprobs.isfinite()
    rollout = places.is_rollout[:, None] & known
    matched = (places.picture == places.prompt)[:, None]
    gap = (logprobs - samples.rollout_logprobs).abs()
    means.add("rollout gap", gap, rollout)
    means.add("ground truth logprob", logprobs, ~places.is_rollout[:, None] & matched & known)
    means.add("mismatched logprob", logprobs, ~places.is_rollout[:, None] & ~matched & known)
    largest = {"largest rollout gap": float(gap[rollout].max())} if rollout.any() else {}
    return means.result() | largest


def _case_scores(samples: Samples) -> tuple[Tensor, Tensor]:
    """s_a and s_g of all cases that a step's rollouts make: two judged pictures of each of the two prompts."""
    places = samples.places
    arithmetic, geometric = [], []
    for pair, planned in enumerate(samples.plans):
        own = [
            samples.rewards[(places.pair == pair) & (places.prompt == prompt) & places.is_rollout].tolist()
            for prompt in range(len(planned.prompts))
        ]
        twos = [list(zip(rewards[0::2], rewards[1::2], strict=False)) for rewards in own]
        for case in zip(*twos, strict=False):
            scores = [score for two in case for score in two]
            if len(own) == 2 and not any(score != score for score in scores):
                arithmetic.append(arithmetic_mean(scores))
                geometric.append(geometric_mean(scores))
    return torch.tensor(arithmetic), torch.tensor(geometric)
