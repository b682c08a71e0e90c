"""LoRA adapters in a network, made by peft."""

from collections.abc import Iterator

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from train.weights.recipe import LoRARecipe

_MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_NAME = "default"


class Adapters:
    """Adapters of all matrices of a network's blocks, which they are put into; at first they change nothing.

    Args:
        network: transformers' Janus; only the adapters keep gradients.
        recipe: their size.
    """

    def __init__(self, network: JanusForConditionalGeneration, recipe: LoRARecipe) -> None:
        config = peft.LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=_MATRICES)
        network.requires_grad_(False)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # A is random at first; in each process, and after a kill, it must be the same
            peft.inject_adapter_in_model(config, network.model.language_model, adapter_name=_NAME)
        self._network = network
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad
        }
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        """Each adapted matrix with its adapter added, W + (alpha / rank) B A in float32, by the matrix's name."""
        for name, module in self._network.named_modules():
            if isinstance(module, LoraLayer):
                base = module.get_base_layer().weight
                yield f"{name}.weight", base.float() + module.get_delta_weight(_NAME).float()
