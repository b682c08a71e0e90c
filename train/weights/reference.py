"""The reference policy that the KL term holds the trained one near."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from train.weights.parameters import decoder_parameters


class Reference(Protocol):
    """Earlier weights, without gradients."""

    def logits(self, ids: Tensor, mask: Tensor, codes: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Image logits of the reference, as of `ImageLogits`."""

    def refresh(self) -> None:
        """Make the present weights the reference."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights by name."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore saved weights."""


class CopyReference:
    """A frozen copy of the weights that are trained; everything else is shared with the trained network.

    Args:
        trained: the network that is trained.
        network: the copy.
        logits: image logits of the copy.
    """

    def __init__(
        self,
        trained: JanusForConditionalGeneration,
        network: JanusForConditionalGeneration,
        logits: Callable[..., Tensor],
    ) -> None:
        self._trained, self.network, self.logits = trained, network, logits

    @torch.no_grad()
    def refresh(self) -> None:
        self.load_state_dict(decoder_parameters(self._trained))

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in decoder_parameters(self.network).items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, mine in decoder_parameters(self.network).items():
            mine.copy_(state[name])


class AdapterReference:
    """Earlier adapters of the trained network, which takes them while the reference is computed.

    Args:
        adapters: the trained adapters' parameters; the present ones are the first reference.
        logits: image logits of the trained network.
    """

    def __init__(self, adapters: Mapping[str, nn.Parameter], logits: Callable[..., Tensor]) -> None:
        self._adapters, self._logits = adapters, logits
        self._earlier = {name: parameter.detach().clone() for name, parameter in adapters.items()}

    @torch.no_grad()
    def logits(self, ids: Tensor, mask: Tensor, codes: Tensor, prompts: Tensor | None = None) -> Tensor:
        self._swap()
        try:
            return self._logits(ids, mask, codes, prompts)
        finally:
            self._swap()

    @torch.no_grad()
    def refresh(self) -> None:
        self.load_state_dict(self._adapters)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._earlier)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, mine in self._earlier.items():
            mine.copy_(state[name])

    def _swap(self) -> None:
        # storage, not values: a backward pass that is still to come finds its own again
        for name, parameter in self._adapters.items():
            parameter.data, self._earlier[name] = self._earlier[name], parameter.data
