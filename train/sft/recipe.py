"""Recipe of supervised fine-tuning."""

from typing import Self

from pydantic import Field, model_validator

from train.recipe import Part


class SFTRecipe(Part):
    """Supervised fine-tuning of the decoder.

    learning_rate: peak rate of AdamW, which trains all but the matrices of the decoder's blocks.
    matrix_learning_rate: peak rate of Muon, which trains those matrices.
    drop_prompt: share of the prompts that are replaced by the unconditional row.
    unconditional_smoothing: label smoothing of unconditional rows: probability spread evenly over all codes.
    base_at: share of the steps after which the weights of `tiny-base` are saved.
    """

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    matrix_learning_rate: float = Field(gt=0)
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    drop_prompt: float = Field(ge=0, le=1)
    unconditional_smoothing: float = Field(ge=0, lt=1)
    base_at: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _base_exists(self) -> Self:
        if int(self.steps * self.base_at) < 1:
            raise ValueError("base_at must leave at least one step before it")
        return self
