"""Which of the kinds of weights a run has."""

import torch

from model.janus import Janus
from train.errors import TrainingError
from train.ranks import Ranks
from train.weights.copied import CopiedWeights
from train.weights.recipe import WeightsRecipe
from train.weights.sharded import ShardedWeights
from train.weights.shared import SharedWeights
from train.weights.weights import Weights


def open_weights(janus: Janus, ranks: Ranks, recipe: WeightsRecipe) -> Weights:
    """The weights of a run: shared with the engine if these can be trained as they are, else beside them.

    Raises:
        TrainingError: adapters are to be sharded.
    """
    if ranks.kind == "fsdp":
        if recipe.lora:
            raise TrainingError("weights.lora needs no --parallel fsdp: adapters are small; use ddp")
        return ShardedWeights(janus, ranks, recipe)
    if janus.dtype == torch.float32 and recipe.precision == "float32" and not recipe.lora:
        return SharedWeights(janus, ranks, recipe)
    return CopiedWeights(janus, ranks, recipe)
