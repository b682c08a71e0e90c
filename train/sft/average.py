"""A running average of weights."""

from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average:
    """A running average of parameters over about the last tenth of all updates (`torch.optim.swa_utils`)."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self._names = list(parameters)
        self._present = nn.ParameterList(parameters.values())
        self._average = AveragedModel(
            self._present, avg_fn=lambda old, new, updates: old.lerp(new, 10 / (updates + 10))
        )

    def update(self) -> None:
        self._average.update_parameters(self._present)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Averages by parameter name."""
        averages = self._average.module.parameters()
        return {name: value.detach().contiguous() for name, value in zip(self._names, averages, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state)
