"""The reference policy that the KL term holds the trained one near."""

import copy

import torch
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from train.parameters import decoder_parameters


class Reference:
    """A frozen copy of the weights that are trained; everything else is shared with the network.

    Args:
        network: its present weights are the first reference.
    """

    def __init__(self, network: JanusForConditionalGeneration) -> None:
        shared: list[nn.Module] = [network.model.vqmodel, network.model.vision_model, network.model.aligner]
        self.network = copy.deepcopy(network, {id(module): module for module in shared})
        self.network.requires_grad_(False).eval()

    @torch.no_grad()
    def refresh(self, network: JanusForConditionalGeneration) -> None:
        """Make the present weights of the trained network the reference."""
        present = decoder_parameters(network)
        for name, mine in decoder_parameters(self.network).items():
            mine.copy_(present[name])

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in decoder_parameters(self.network).items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, mine in decoder_parameters(self.network).items():
            mine.copy_(state[name])
