"""Weights that the engine shares."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from model.janus import Janus
from train.ranks import Ranks
from train.weights.image_logits import ImageLogits
from train.weights.parameters import unfreeze_decoder
from train.weights.recipe import WeightsRecipe
from train.weights.reference import CopyReference, Reference
from train.weights.weights import averaged, checkpoint_activations, copy_of, replicated


class SharedWeights:
    """All weights in float32 in this process, shared with the engine.

    Args:
        janus: the engine's; its network is trained.
        ranks: the processes of the run.
        recipe: precision "float32", and no adapters.
    """

    sharded = False

    def __init__(self, janus: Janus, ranks: Ranks, recipe: WeightsRecipe) -> None:
        assert janus.dtype == torch.float32
        assert recipe.precision == "float32"
        self.network = janus.network
        self.parameters = unfreeze_decoder(self.network)
        if recipe.activation_checkpointing:
            checkpoint_activations(self.network)
        self.logits = replicated(ImageLogits(self.network), ranks)

    def publish(self) -> None:
        pass  # it has them

    def backward(self, *, last: bool) -> AbstractContextManager[None]:
        return averaged(self.logits, last=last)

    def reference(self) -> Reference:
        network = copy_of(self.network, torch.float32).requires_grad_(False).eval()
        return CopyReference(self.network, network, ImageLogits(network))

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor], served: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(served)
