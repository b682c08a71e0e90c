"""The memory of a run of supervised fine-tuning."""

from collections.abc import Iterator

import torch
from torch import Tensor

from model.checkpoints.footprint import footprint
from train.memory.drawing import encoding_part
from train.memory.held import weight_parts
from train.memory.plan import MemoryPlan, Part
from train.memory.update import update_parts
from train.memory.weightless import WeightlessJanus, open_weightless, storages, without_processes
from train.ranks import Ranks
from train.sft.batches import Batches
from train.sft.loss import code_loss
from train.sft.recipe import SFTRecipe
from train.sft.training import SFT


class _BlankRows:
    """One batch of rows, without prompts and pictures."""

    def __init__(self, janus: WeightlessJanus, recipe: SFTRecipe) -> None:
        self._count, self._tokens = recipe.batch_size, janus.image_tokens

    def __len__(self) -> int:
        return self._count

    def prompt(self, index: int, epoch: int) -> str:
        return ""

    def codes(self, index: int) -> Tensor:
        return torch.zeros(self._tokens, dtype=torch.int64)


def plan_sft(janus: WeightlessJanus, recipe: SFTRecipe, *, ranks: Ranks, device: torch.device) -> MemoryPlan:
    """Compute the memory of a run in each of its processes.

    Args:
        janus: the first weights.
        recipe: decides the run.
        ranks: the processes.
        device: of each process; it need not be there.

    Raises:
        TrainingError: the run cannot take place.
    """
    with without_processes(ranks):
        return MemoryPlan(tuple(_parts(janus, recipe, ranks, device)))


def _parts(janus: WeightlessJanus, recipe: SFTRecipe, ranks: Ranks, device: torch.device) -> Iterator[Part]:
    weights = open_weightless(janus, ranks, recipe.weights)
    batches = Batches(_BlankRows(janus, recipe), janus, recipe, ranks)
    sft = SFT(weights, batches, recipe, ranks)
    optimizers = [optimizer for optimizer, _ in sft.optimizers]
    needs = footprint(janus.network.config, janus.dtype, device)
    yield from weight_parts(janus, weights, needs, optimizers, ranks)
    averages = sum(storages(sft.average.tensors.values()).values()) if sft.average is not None else 0
    yield Part("held", "average", averages, "of the trained weights")
    yield encoding_part(janus)
    part = batches[0].split(recipe.micro_batch)[0]

    def loss() -> Tensor:
        logits = weights.logits(part.ids, part.mask, part.codes)
        return code_loss(logits, part, unconditional_smoothing=recipe.unconditional_smoothing)[0]

    yield from update_parts(janus, weights, loss, pictures=len(part.codes), rows=len(part.codes))
