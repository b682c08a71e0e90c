"""Recipe of the trained weights and their precision."""

from typing import Literal

from pydantic import Field

from train.recipe import Part


class LoRARecipe(Part):
    """Low-rank adapters of all matrices of the decoder's blocks (Hu et al. 2021); nothing else is trained.

    rank: r of B A, whose product is added to a matrix.
    alpha: the product is multiplied by alpha / rank.
    """

    rank: int = Field(default=16, gt=0)
    alpha: float = Field(default=32.0, gt=0)


class WeightsRecipe(Part):
    """Trained parameters, precision and memory.

    precision: of the forward pass. With "bfloat16" the trained weights themselves, the image head and the log-softmax
        stay in float32.
    activation_checkpointing: keep only each block's input for the backward pass, and compute the rest again.
    lora: train adapters instead of the weights.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    activation_checkpointing: bool = False
    lora: LoRARecipe | None = None
