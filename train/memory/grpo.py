"""The memory of a GRPO run."""

from collections.abc import Iterator

import torch
from torch import Tensor

from model.checkpoints.footprint import footprint
from train.errors import TrainingError
from train.grpo.metrics import Means
from train.grpo.objective.micro_batches import MicroBatch
from train.grpo.objective.objective import Objective
from train.grpo.objective.old_policy import OldPolicy
from train.grpo.objective.policy import PromptTable
from train.grpo.recipe import GRPORecipe
from train.grpo.rollout.plan import ground_truth_of
from train.memory.drawing import drawing_parts
from train.memory.held import weight_parts
from train.memory.plan import MemoryPlan, Part
from train.memory.update import update_parts
from train.memory.weightless import WeightlessJanus, open_weightless, storages, without_processes
from train.ranks import Ranks


class _NoMeans(Means):
    """Collects nothing: fake tensors have no values."""

    def add(self, name: str, values: Tensor, where: Tensor) -> None:
        pass


def plan_grpo(
    janus: WeightlessJanus, recipe: GRPORecipe, *, slots: int, ranks: Ranks, device: torch.device
) -> MemoryPlan:
    """Compute the memory of a run in each of its processes.

    Args:
        janus: the first policy.
        recipe: decides the run.
        slots: pictures drawn at once, in each process.
        ranks: the processes.
        device: of each process; it need not be there.

    Raises:
        TrainingError: the run cannot take place, or its method of credit is not counted.
        ValueError: there are no slots.
    """
    if slots < 1:
        raise ValueError(f"--slots must be at least 1, not {slots}")
    recipe.check_processes(ranks.count)
    if recipe.credit.method == "attention":
        raise TrainingError('credit.method is "attention", whose maps --plan does not count: give another')
    with without_processes(ranks):
        return MemoryPlan(tuple(_parts(janus, recipe, slots, ranks, device)))


def _parts(
    janus: WeightlessJanus, recipe: GRPORecipe, slots: int, ranks: Ranks, device: torch.device
) -> Iterator[Part]:
    weights = open_weightless(janus, ranks, recipe.weights)
    needs = footprint(janus.network.config, janus.dtype, device)
    yield from weight_parts(janus, weights, needs, [torch.optim.AdamW(weights.parameters.values(), fused=True)], ranks)
    reference = weights.reference() if recipe.loss.beta else None
    size = sum(storages(reference.state_dict().values()).values()) if reference is not None else 0
    adapters = "earlier adapters" if recipe.weights.lora else f"earlier weights in {recipe.weights.precision}"
    yield Part("held", "reference", size, adapters + (f", 1/{ranks.count} of them" if weights.sharded else ""))
    spare = needs.per_image // 2 if device.type == "cuda" else 0  # the row that captured steps write to
    length = janus.max_prompt_tokens + janus.image_tokens
    yield Part("held", "KV cache", slots * needs.per_image + spare, f"{slots} slots × 2 rows × {length} tokens")

    prompts = 2 * -(-recipe.rollout.pairs // ranks.count)
    at_once = min(prompts, -(-slots // recipe.rollout.samples))
    yield from drawing_parts(janus, device, recipe.rollout.params, prompts=prompts, at_once=at_once)

    # the order of credit weights takes no memory, but is computed from codes, which are not there
    credit = recipe.credit.model_copy(update={"shuffled": False})
    objective = Objective(janus, weights, recipe.model_copy(update={"credit": credit}), reference)
    batch = micro_batch(janus, recipe, ranks)

    def loss() -> Tensor:
        return objective.losses(batch, OldPolicy(batch.codes, filtered=False), _NoMeans()).sum()

    pictures = len(batch.codes)
    rows = pictures * (2 if recipe.rollout.params.guided else 1)
    yield from update_parts(janus, weights, loss, pictures=pictures, rows=rows)


def micro_batch(janus: WeightlessJanus, recipe: GRPORecipe, ranks: Ranks) -> MicroBatch:
    """A full micro-batch with as many prompts as one can have in a step in which all groups are live."""
    truth = len(ground_truth_of(recipe, 2)) // 2 if recipe.ground_truth.group == "grown" else 0
    each = recipe.rollout.samples + truth
    count = min(recipe.update.micro_batch, -(-2 * recipe.rollout.pairs * each // ranks.count))
    # the last sample of one prompt, then all of others; of different lengths, as in `drawing_parts`
    lengths = [max(2, janus.prompt_tokens - (number + each - 1) // each) for number in range(count)]
    table = PromptTable.of([[janus.ids.bos] * length for length in lengths], janus.ids, janus.device)
    return MicroBatch(
        numbers=list(range(count)),
        prompts=table,
        texts=[""] * count,
        others=[""] * count,
        codes=torch.zeros(count, janus.image_tokens, dtype=torch.int64),
        advantages=torch.ones(count),
        is_rollout=torch.ones(count, 1, dtype=torch.bool),
        counted=torch.ones(count, 1, dtype=torch.bool),
        rollout_logprobs=torch.zeros(count, janus.image_tokens),
    )
