"""The samples of a step, as tensors, in memory and on disk."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pairs.files import write_atomically
from train.grpo.rollout.plan import PairPlan


@dataclass(frozen=True)
class Places:
    """Pair, prompt, picture and seed of each of the N samples of a step; every field is int64 [N].

    Samples are ordered by pair; in a pair the rollouts of each prompt come first, then the ground truth.

    pair: place of the pair in the step.
    prompt: number of the prompt in its pair.
    picture: number of the ground-truth picture, −1 for a rollout.
    seed: −1 for ground truth.
    """

    pair: Tensor
    prompt: Tensor
    picture: Tensor
    seed: Tensor

    @classmethod
    def of(cls, plans: Sequence[PairPlan]) -> "Places":
        """Places of the samples of a plan."""
        rows = [
            row
            for place, pair in enumerate(plans)
            for row in [
                *((place, prompt, -1, seed) for prompt, seeds in enumerate(pair.seeds) for seed in seeds),
                *((place, entry.prompt, entry.picture, -1) for entry in pair.ground_truth),
            ]
        ]
        return cls(*torch.tensor(rows, dtype=torch.int64).T)

    @property
    def is_rollout(self) -> Tensor:
        """Bool [N]."""
        return self.picture < 0

    def groups(self, scope: Literal["pair", "prompt"]) -> Tensor:
        """Group of each sample, int64 [N], numbered from 0: its pair, or its prompt."""
        return self.pair if scope == "pair" else torch.unique(2 * self.pair + self.prompt, return_inverse=True)[1]


@dataclass(frozen=True)
class Samples:
    """The N samples of a step, drawn and judged.

    codes: int64 [N, tokens].
    rollout_logprobs: float32 [N, tokens], as the engine had them; 0 for ground truth.
    rewards: float32 [N]; NaN where the judgement failed.
    """

    plans: tuple[PairPlan, ...]
    codes: Tensor
    rollout_logprobs: Tensor
    rewards: Tensor

    @property
    def places(self) -> Places:
        return Places.of(self.plans)

    def prompts(self) -> list[str]:
        """Prompt of each sample."""
        places = self.places
        return [
            self.plans[pair].prompts[prompt]
            for pair, prompt in zip(places.pair.tolist(), places.prompt.tolist(), strict=True)
        ]

    @classmethod
    def joined(cls, parts: Sequence["Samples"]) -> "Samples":
        """Samples of several groups of pairs, one after the other."""
        return cls(
            tuple(plan for part in parts for plan in part.plans),
            *(torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS),
        )

    def by_pair(self) -> list["Samples"]:
        """The samples of each pair."""
        sizes = [pair.samples for pair in self.plans]
        parts = zip(*(getattr(self, name).split(sizes) for name in _TENSORS), strict=True)
        return [Samples((pair,), *tensors) for pair, tensors in zip(self.plans, parts, strict=True)]


_TENSORS = tuple(field.name for field in fields(Samples) if field.name != "plans")


def save_samples(samples: Samples, file: Path) -> None:
    """Write samples to a file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {name: getattr(samples, name).contiguous() for name in _TENSORS}
    attempts = json.dumps([pair.attempt for pair in samples.plans])
    write_atomically(file, lambda partial: partial.write_bytes(save(tensors, {"attempts": attempts})))


def load_attempts(file: Path) -> list[int]:
    """Attempts of the pairs in a samples file, from which their plans are made again."""
    with safe_open(file, framework="pt") as opened:
        attempts: list[int] = json.loads(opened.metadata()["attempts"])
    return attempts


def load_samples(file: Path, plans: tuple[PairPlan, ...]) -> Samples:
    """Read the samples of a plan from a file."""
    with safe_open(file, framework="pt") as opened:
        return Samples(plans, *(opened.get_tensor(name) for name in _TENSORS))
