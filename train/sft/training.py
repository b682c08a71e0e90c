"""Supervised fine-tuning: maximise the likelihood of a picture's codes given its prompt (paper, section 3.2).

- The loss is the mean over image positions only.
- A share of the prompts is replaced by the unconditional row, which guidance needs. The embedding of the
  pad token, which that row is made of, is trained (transformers would freeze it).
- Unconditional rows may have smoothed labels (`code_loss`), which keeps guidance from choosing absurd codes.
- Muon may train the matrices of the decoder's blocks, AdamW all else: the model follows prompts after fewer
  pictures than with AdamW alone (docs/tiny.md).
- The saved weights may be a running average.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from train.errors import TrainingError
from train.ranks import ALONE, Ranks
from train.schedule import warmup_cosine
from train.sft.average import Average
from train.sft.batches import Batches
from train.sft.loss import code_loss
from train.sft.optimizers import make_optimizers
from train.sft.recipe import SFTRecipe
from train.weights.sharded import whole
from train.weights.weights import Weights, restore


class SFT:
    """Supervised fine-tuning of weights, step by step.

    optimizers: with their peak learning rates.
    average: of the weights; None if the recipe saves the weights themselves.

    Args:
        weights: trained in place.
        batches: by step number.
        recipe: everything else.
        ranks: the processes that share the batches.

    Raises:
        TrainingError: the recipe cannot be followed in these processes.
    """

    def __init__(self, weights: Weights, batches: Batches, recipe: SFTRecipe, ranks: Ranks = ALONE) -> None:
        if recipe.batch_size % ranks.count:
            raise TrainingError(f"batch_size is {recipe.batch_size}: no multiple of {ranks.count} processes")
        if weights.sharded and recipe.matrix_learning_rate:
            raise TrainingError("matrix_learning_rate must be 0 with --parallel fsdp: Muon needs whole matrices")
        if weights.sharded and recipe.average:
            raise TrainingError("average must be false with --parallel fsdp")
        self._weights, self._batches, self._recipe, self._ranks = weights, batches, recipe, ranks
        self.optimizers = make_optimizers(weights.parameters, recipe)
        self.average = Average(weights.parameters) if recipe.average else None

    def step(self, step: int) -> dict[str, float]:
        """Train on one batch; returns the loss in nats per code, and the gradient's norm."""
        recipe = self._recipe
        pace = warmup_cosine(step, total=recipe.steps, warmup=recipe.warmup, peak=1.0, floor=recipe.final_rate)
        for optimizer, rate in self.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = pace * rate
        batch = self._batches[step].to(self._weights.network.device)
        parts, total = batch.split(recipe.micro_batch), 0.0
        for number, part in enumerate(parts, start=1):
            with self._weights.backward(last=number == len(parts)):
                logits = self._weights.logits(part.ids, part.mask, part.codes)
                objective, loss = code_loss(logits, part, unconditional_smoothing=recipe.unconditional_smoothing)
                share = len(part.codes) / len(batch.codes)
                torch.autograd.backward(share * objective)
                total += share * loss.item()
        norm = float(whole(nn.utils.clip_grad_norm_(self._weights.parameters.values(), 1.0)))
        if norm != norm or norm == float("inf"):
            raise TrainingError(f"stopped at step {step + 1}: the gradient's norm is {norm}")
        for optimizer, _ in self.optimizers:
            optimizer.step()
        if self.average is not None:
            self.average.update()
        return {"loss": sum(self._ranks.gather(total)) / self._ranks.count, "gradient norm": norm}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights to be saved, by name: their average, or themselves."""
        return self.average.tensors if self.average is not None else _data(self._weights.parameters)

    @contextmanager
    def published(self) -> Iterator[None]:
        """Context in which the served network has the weights to be saved."""
        present = _data(self._weights.parameters)
        chosen = self.tensors
        for name, parameter in self._weights.parameters.items():
            parameter.data = chosen[name]
        try:
            self._weights.publish()
            yield
        finally:
            for name, parameter in self._weights.parameters.items():
                parameter.data = present[name]

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": _data(self._weights.parameters),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        restore(self._weights.parameters, state["weights"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def shards(self) -> dict[str, Any]:
        """The state of which this process has a part: weights and optimizer."""
        (optimizer, _), *_ = self.optimizers
        return {
            "weights": self._weights.state_dict(),
            "optimizer": get_optimizer_state_dict(self._weights.logits, optimizer),
        }

    def load_shards(self, shards: Mapping[str, Any]) -> None:
        """Restore `shards`, whose tensors hold saved values."""
        (optimizer, _), *_ = self.optimizers
        restore(self._weights.parameters, shards["weights"])
        set_optimizer_state_dict(self._weights.logits, optimizer, shards["optimizer"])


def _data(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.data for name, parameter in parameters.items()}
