"""The reference policy that the KL term holds the trained one near."""

import torch
from torch import Tensor

from train.parallel.weights import Weights
from train.parameters import decoder_parameters


class Reference:
    """A frozen copy of the weights that are trained; everything else is shared with the network.

    Args:
        weights: the present ones are the first reference.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.network, self.logits = weights.frozen_copy()

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the present weights the reference."""
        present = decoder_parameters(self._weights.network)
        for name, mine in decoder_parameters(self.network).items():
            mine.copy_(present[name])

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in decoder_parameters(self.network).items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, mine in decoder_parameters(self.network).items():
            mine.copy_(state[name])
