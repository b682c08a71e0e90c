"""Training recipes: one TOML file each, validated before torch is imported."""

import json
import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.params import SamplingParams
from pairs.files import write_atomically
from pairs.scene import CATEGORIES, Category, Combination

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """Unusable recipe; the message names the file or folder and the field."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataRecipe(_Part):
    """The captioned pictures that are rendered and encoded to train the decoder."""

    images: int = Field(gt=0)
    category_weights: dict[Category, float] = Field(default_factory=dict)  # a missing category has weight 1


class VQRecipe(_Part):
    """Geometry of the image tokenizer; names as in transformers' JanusVQVAEConfig."""

    base_channels: int = Field(multiple_of=32)
    channel_multiplier: tuple[int, ...]
    num_res_blocks: int = Field(ge=0)
    latent_channels: int
    embed_dim: int
    num_embeddings: int


class VQTrainingRecipe(_Part):
    """Training of the image tokenizer.

    images: number of pictures without captions.
    continuous_steps: steps without quantisation, before the codebook is initialised.
    select_at_step: step at which the network's own codebook replaces the scaffold.
    scaffold_size: size of the scaffold, a larger codebook from which the own one is taken.
    learning_rate, final_learning_rate: peak rates before and after `select_at_step`; each falls to a fiftieth.
    edge_weight, commitment, locality: weights of the parts of the loss.
    codebook_decay: decay per step of the running means that codes follow.
    restart_below, separation: a scaffold code is moved if it is used less than `restart_below` times per batch, or
        lies within the squared distance `separation` of a busier one.
    """

    images: int = Field(gt=0)
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    final_learning_rate: float = Field(gt=0)
    continuous_steps: int = Field(ge=0)
    select_at_step: int
    edge_weight: float = Field(ge=0)
    commitment: float = Field(ge=0)
    locality: float = Field(ge=0)
    scaffold_size: int
    codebook_decay: float = Field(ge=0, lt=1)
    restart_below: float = Field(ge=0)
    separation: float = Field(ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.continuous_steps < self.select_at_step < self.steps:
            raise ValueError("must have continuous_steps < select_at_step < steps")
        return self


class LanguageRecipe(_Part):
    """Geometry of the decoder; names as in transformers' LlamaConfig."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    rope_theta: float


class SFTRecipe(_Part):
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


class SamplingRecipe(_Part):
    """The checkpoint's sampling settings, used unless a request gives others."""

    guidance_scale: float
    temperature: float
    top_k: int
    top_p: float

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        self.params  # noqa: B018  SamplingParams validates
        return self

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(**self.model_dump())


class Recipe(_Part):
    """Everything that decides a trained checkpoint."""

    seed: int
    image_size: int
    held_out: tuple[Combination, ...]
    data: DataRecipe
    vq: VQRecipe
    vq_training: VQTrainingRecipe
    language: LanguageRecipe
    sft: SFTRecipe
    sampling: SamplingRecipe

    @model_validator(mode="after")
    def _codes_fit(self) -> Self:
        if self.vq_training.scaffold_size < self.vq.num_embeddings:
            raise ValueError("vq_training.scaffold_size must be at least vq.num_embeddings")
        return self

    @property
    def category_weights(self) -> tuple[float, ...]:
        """Sampling weight of each category, in the order of `CATEGORIES`."""
        return tuple(self.data.category_weights.get(category, 1.0) for category in CATEGORIES)

    @property
    def grid(self) -> int:
        """Codes along one side of a picture."""
        side: int = self.image_size // 2 ** (len(self.vq.channel_multiplier) - 1)
        return side


def load_recipe(name: str) -> Recipe:
    """Load a recipe: a shipped one by name, any other by the path of its .toml file.

    Raises:
        RecipeError: there is no such recipe, or a field is invalid.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise RecipeError(f"no recipe {name!r}: give one of {known}, or the path of a .toml file") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}." for part in first["loc"]).rstrip(".")
        raise RecipeError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None


def claim_folder(folder: Path, recipe: Recipe) -> None:
    """Record the recipe of a run in its folder, so that no other recipe resumes that run.

    Raises:
        RecipeError: the folder holds a run of another recipe.
    """
    file = folder / "recipe.json"
    mine = recipe.model_dump(mode="json")
    if file.exists():
        theirs = json.loads(file.read_text())
        if differing := [name for name in mine if mine[name] != theirs.get(name)]:
            raise RecipeError(f"{folder} holds a run of another recipe ({differing[0]} differs): choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda partial: partial.write_text(json.dumps(mine, indent=1)))
