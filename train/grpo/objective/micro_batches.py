"""Micro-batches: the samples of a step that go through the network together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from model.janus import Janus
from train.grpo.objective.advantage import Advantages
from train.grpo.objective.policy import PromptTable
from train.grpo.rollout.samples import Samples
from train.ranks import Ranks

T = TypeVar("T")


@dataclass(frozen=True)
class MicroBatch:
    """B samples of a step, on the device.

    numbers: of the samples in their step.
    prompts: token ids.
    texts: the prompt of each sample.
    others: the other prompt of each sample's pair; its own if it has no other.
    codes: int64 [B, tokens].
    advantages: float32 [B].
    is_rollout: bool [B, 1], false for ground truth.
    counted: bool [B, 1], false for samples that only fill up a micro-batch, so that all processes have equally many.
    rollout_logprobs: float32 [B, tokens], as the engine had them.
    """

    numbers: list[int]
    prompts: PromptTable
    texts: list[str]
    others: list[str]
    codes: Tensor
    advantages: Tensor
    is_rollout: Tensor
    counted: Tensor
    rollout_logprobs: Tensor

    @classmethod
    def of(
        cls, samples: Samples, advantages: Tensor, numbers: list[int], counted: list[bool], janus: Janus
    ) -> "MicroBatch":
        """Gather samples of a step by number; `advantages` is float32 [N]."""
        places, device = samples.places, janus.device
        pairs = [samples.plans[pair].prompts for pair in places.pair[numbers].tolist()]
        own = places.prompt[numbers].tolist()
        texts = [prompts[i] for prompts, i in zip(pairs, own, strict=True)]
        return cls(
            numbers,
            PromptTable.of([janus.encode(text) for text in texts], janus.ids, device),
            texts,
            [prompts[(i + 1) % len(prompts)] for prompts, i in zip(pairs, own, strict=True)],
            samples.codes[numbers].to(device),
            advantages[numbers].to(device),
            places.is_rollout[numbers, None].to(device),
            torch.tensor(counted, device=device)[:, None],
            samples.rollout_logprobs[numbers].to(device),
        )


def micro_batches(
    samples: Samples, advantages: Advantages, chosen: Tensor, size: int, janus: Janus, ranks: Ranks
) -> list[MicroBatch]:
    """This process's share of the chosen samples (bool [N]), in micro-batches of at most `size`.

    All processes get equally many samples, hence micro-batches: FSDP would wait for ever for a missing one. What is
    missing is filled up with samples that do not count.
    """
    rows = [janus.encode(prompt) for prompt in samples.prompts()]
    numbers = ordered(rows, chosen.nonzero()[:, 0].tolist())
    filled = numbers + numbers[:1] * (-len(numbers) % ranks.count)
    counted = [True] * len(numbers) + [False] * (len(filled) - len(numbers))
    parts = zip(split(ranks.own(filled), size), split(ranks.own(counted), size), strict=True)
    return [MicroBatch.of(samples, advantages.values, own, counts, janus) for own, counts in parts]


def ordered(rows: Sequence[Sequence[int]], chosen: Sequence[int]) -> list[int]:
    """Order samples by prompt.

    Samples of one prompt stay together, since a prompt is read once per micro-batch, and shorter prompts stay with
    shorter ones, since all are padded to the longest.

    Args:
        rows: prompt of every sample, as token ids.
        chosen: numbers of the samples to be ordered.
    """
    return sorted(chosen, key=lambda i: (len(rows[i]), tuple(rows[i]), i))


def split(items: Sequence[T], size: int) -> list[list[T]]:
    """Split into as few micro-batches of at most `size` as possible, of nearly equal size."""
    count = -(-len(items) // size)
    bounds = [len(items) * i // count for i in range(count + 1)] if count else []
    return [list(items[start:stop]) for start, stop in pairwise(bounds)]
