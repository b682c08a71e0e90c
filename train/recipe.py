"""A training recipe: one TOML file, checked before anything heavy is imported."""

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
    """A recipe that cannot be used; the message names the file and the field."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataRecipe(_Part):
    """How many captioned pictures of the world are rendered and encoded for the decoder."""

    images: int = Field(gt=0)
    category_weights: dict[Category, float] = Field(default_factory=dict)  # 1 where none is given


class VQRecipe(_Part):
    """Geometry of the image tokenizer, in the names of transformers' JanusVQVAEConfig."""

    base_channels: int = Field(multiple_of=32)
    channel_multiplier: tuple[int, ...]
    num_res_blocks: int = Field(ge=0)
    latent_channels: int
    embed_dim: int
    num_embeddings: int


class VQTrainingRecipe(_Part):
    """How the image tokenizer is trained.

    images: pictures without captions to train on.
    continuous_steps: steps before there are codes.
    scaffold_embeddings: codes of the scaffold codebook, which learns until `thin_at_step`; then the network takes its
        own codes from it.
    learning_rate, own_learning_rate: before and after `thin_at_step`; each falls to nothing.
    edge_weight, commitment, locality: weights of the parts of the loss.
    codebook_decay: share of their running mean that codes keep each step.
    restart_below, separation: a code of the scaffold that is used less than `restart_below` times a batch, or lies
        within the squared distance `separation` of a busier one, is moved.
    """

    images: int = Field(gt=0)
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    own_learning_rate: float = Field(gt=0)
    continuous_steps: int = Field(ge=0)
    thin_at_step: int
    edge_weight: float = Field(ge=0)
    commitment: float = Field(ge=0)
    locality: float = Field(ge=0)
    scaffold_embeddings: int
    codebook_decay: float = Field(ge=0, lt=1)
    restart_below: float = Field(ge=0)
    separation: float = Field(ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.continuous_steps < self.thin_at_step < self.steps:
            raise ValueError("must have continuous_steps < thin_at_step < steps")
        return self


class LanguageRecipe(_Part):
    """Geometry of the decoder, in the names of transformers' LlamaConfig."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    rope_theta: float


class SFTRecipe(_Part):
    """How the decoder is trained.

    learning_rate: AdamW's, for everything but the matrices of the decoder's blocks.
    matrix_learning_rate: Muon's, for those.
    drop_prompt: share of the prompts that are replaced by the unconditional row.
    unconditional_smoothing: probability that the labels of unconditional rows spread evenly over all codes.
    base_at: share of the steps after which `tiny-base` is kept.
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
    """The settings that the checkpoint is sampled with unless a request says otherwise."""

    guidance_scale: float
    temperature: float
    top_k: int
    top_p: float

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        self.params  # noqa: B018  it checks
        return self

    @property
    def params(self) -> SamplingParams:
        """The same as what everything else speaks."""
        return SamplingParams(**self.model_dump())


class Recipe(_Part):
    """Everything that decides a checkpoint."""

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
        if self.vq_training.scaffold_embeddings < self.vq.num_embeddings:
            raise ValueError("vq_training.scaffold_embeddings must be at least vq.num_embeddings")
        return self

    @property
    def category_weights(self) -> tuple[float, ...]:
        """How often each category is drawn, in the order of `CATEGORIES`."""
        return tuple(self.data.category_weights.get(category, 1.0) for category in CATEGORIES)

    @property
    def grid(self) -> int:
        """Codes along one side of a picture."""
        side: int = self.image_size // 2 ** (len(self.vq.channel_multiplier) - 1)
        return side


def load_recipe(name: str) -> Recipe:
    """A recipe by the name of a shipped one or by the path of a TOML file.

    Raises:
        RecipeError: no such recipe, or a field that does not fit.
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


def claim(folder: Path, recipe: Recipe) -> None:
    """Make a folder a recipe's: its parts must not be gone on with by another.

    Raises:
        RecipeError: it holds a run of another recipe.
    """
    file = folder / "recipe.json"
    mine = recipe.model_dump(mode="json")
    if file.exists():
        theirs = json.loads(file.read_text())
        if differing := [name for name in mine if mine[name] != theirs.get(name)]:
            raise RecipeError(f"{folder} holds a run of another recipe ({differing[0]} differs): choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda partial: partial.write_text(json.dumps(mine, indent=1)))
