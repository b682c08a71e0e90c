"""Recipe of supervised fine-tuning."""

from typing import Self

from pydantic import Field, model_validator

from pairs.scene import Category
from train.recipe import RECIPES, Part, override, read_recipe
from train.weights.recipe import WeightsRecipe


class SFTRecipe(Part):
    """Supervised fine-tuning of the decoder.

    batch_size: pictures in a step, of all processes together.
    micro_batch: pictures per forward pass; 0 takes the whole batch.
    learning_rate: peak rate of AdamW.
    matrix_learning_rate: peak rate of Muon, which then trains the matrices of the decoder's blocks; 0 leaves them to
        AdamW.
    final_rate: learning rate at the end, as a share of the peak; a cosine leads there.
    drop_prompt: share of the prompts that are replaced by the unconditional row.
    unconditional_smoothing: label smoothing of unconditional rows: probability spread evenly over all codes.
    average: whether a running average of the weights is saved in their place.
    category_weights: of the procedural world; a missing category has weight 1.
    save_every: steps between checkpoints.
    keep: checkpoints kept, the newest ones.
    """

    seed: int = 0
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    micro_batch: int = Field(default=0, ge=0)
    learning_rate: float = Field(gt=0)
    matrix_learning_rate: float = Field(default=0.0, ge=0)
    warmup: int = Field(ge=0)
    final_rate: float = Field(default=0.02, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(ge=0)
    drop_prompt: float = Field(ge=0, le=1)
    unconditional_smoothing: float = Field(default=0.0, ge=0, lt=1)
    average: bool = True
    category_weights: dict[Category, float] = Field(default_factory=dict)
    save_every: int = Field(default=100, gt=0)
    keep: int = Field(default=2, gt=0)
    weights: WeightsRecipe = WeightsRecipe()

    @model_validator(mode="after")
    def _adapters_are_no_matrices(self) -> Self:
        if self.matrix_learning_rate and self.weights.lora:
            raise ValueError("matrix_learning_rate must be 0 with weights.lora")
        return self


def load_recipe(name: str, *, seed: int | None = None, steps: int | None = None) -> SFTRecipe:
    """Load a recipe by its name, or by the path of a .toml file; `seed` and `steps` replace its own.

    Raises:
        RecipeError: there is no such recipe, or a field is invalid.
    """
    return override(read_recipe(name, SFTRecipe, folder=RECIPES / "sft"), seed=seed, steps=steps)
