"""Weights beside those of the engine."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from model.janus import Janus
from train.ranks import Ranks
from train.weights.adapters import Adapters
from train.weights.image_logits import ImageLogits
from train.weights.parameters import decoder_parameters, unfreeze_decoder
from train.weights.recipe import WeightsRecipe
from train.weights.reference import AdapterReference, CopyReference, Reference
from train.weights.weights import averaged, checkpoint_activations, copy_of, replicated, restore


class CopiedWeights:
    """All weights in this process, beside the engine's, which are copied from them at each refresh.

    The trained parameters are in float32, the others and the reference in the recipe's precision.

    Args:
        janus: the engine's; its weights are the first ones.
        ranks: the processes of the run.
        recipe: precision and adapters.
    """

    sharded = False

    def __init__(self, janus: Janus, ranks: Ranks, recipe: WeightsRecipe) -> None:
        self._served = janus.network.requires_grad_(False)
        self._precision = recipe.precision
        self._dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        self.network = copy_of(janus.network, self._dtype if recipe.lora else torch.float32)
        self._adapters = Adapters(self.network, recipe.lora) if recipe.lora else None
        self.parameters = self._adapters.parameters if self._adapters else unfreeze_decoder(self.network)
        if recipe.activation_checkpointing:
            checkpoint_activations(self.network)
        self.logits = replicated(ImageLogits(self.network, recipe.precision), ranks)

    @torch.no_grad()
    def publish(self) -> None:
        served = decoder_parameters(self._served)
        present = self._adapters.merged() if self._adapters else decoder_parameters(self.network).items()
        for name, value in present:
            served[name].copy_(value)

    def backward(self, *, last: bool) -> AbstractContextManager[None]:
        return averaged(self.logits, last=last)

    def reference(self) -> Reference:
        if self._adapters:
            return AdapterReference(self.parameters, ImageLogits(self.network, self._precision))
        network = copy_of(self.network, self._dtype).requires_grad_(False).eval()
        return CopyReference(self.network, network, ImageLogits(network, self._precision))

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], served: Mapping[str, Tensor]) -> None:
        restore(self.parameters, state)
