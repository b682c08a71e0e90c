"""Image logits as a module."""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from model.likelihood import image_logits


class ImageLogits(nn.Module):
    """`model.likelihood.image_logits` as a module, since DDP and FSDP act on the forward pass of one.

    Args:
        network: transformers' Janus.
        precision: of the forward pass.
    """

    def __init__(
        self, network: JanusForConditionalGeneration, precision: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        super().__init__()
        self.network, self._mixed = network, precision == "bfloat16"

    def forward(self, ids: Tensor, mask: Tensor, codes: Tensor, prompts: Tensor | None = None) -> Tensor:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self._mixed):
            return image_logits(self.network, ids, mask, codes, prompts=prompts)
