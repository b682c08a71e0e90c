"""Micro-batches: the samples of a step that go through the network together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from model.janus import Janus
from train.grpo.objective.advantage import Advantages
from train.grpo.objective.policy import PromptTable
from train.grpo.rollout.samples import Samples


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
    rollout_logprobs: float32 [B, tokens], as the engine had them.
    """

    numbers: list[int]
    prompts: PromptTable
    texts: list[str]
    others: list[str]
    codes: Tensor
    advantages: Tensor
    is_rollout: Tensor
    rollout_logprobs: Tensor

    @classmethod
    def of(cls, samples: Samples, advantages: Tensor, numbers: list[int], janus: Janus) -> "MicroBatch":
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
            samples.rollout_logprobs[numbers].to(device),
        )


def micro_batches(
    samples: Samples, advantages: Advantages, chosen: Tensor, size: int, janus: Janus
) -> list[MicroBatch]:
    """The chosen samples (bool [N]) in micro-batches of at most `size`."""
    rows = [janus.encode(prompt) for prompt in samples.prompts()]
    return [
        MicroBatch.of(samples, advantages.values, numbers, janus)
        for numbers in split(rows, chosen.nonzero()[:, 0].tolist(), size)
    ]


def split(rows: Sequence[Sequence[int]], chosen: Sequence[int], size: int) -> list[list[int]]:
    """Split samples into as few micro-batches as possible, of nearly equal size.

    Samples of one prompt stay together, since a prompt is read once per micro-batch, and shorter prompts stay with
    shorter ones, since all are padded to the longest.

    Args:
        rows: prompt of every sample, as token ids.
        chosen: numbers of the samples to be split.
        size: most samples of a micro-batch.
    """
    ordered = sorted(chosen, key=lambda i: (len(rows[i]), tuple(rows[i]), i))
    count = -(-len(ordered) // size)
    bounds = [len(ordered) * i // count for i in range(count + 1)] if count else []
    return [ordered[start:stop] for start, stop in pairwise(bounds)]
