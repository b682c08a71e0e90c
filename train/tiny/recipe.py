"""Recipes of tiny models: pictures, image tokenizer, decoder, SFT, GRPO and sampling settings."""

from typing import Self

from pydantic import Field, model_validator

from model.params import SamplingParams
from pairs.scene import CATEGORIES, Category, Combination
from train.grpo.recipe import GRPORecipe
from train.recipe import Part, read_recipe
from train.sft.recipe import SFTRecipe


class DataRecipe(Part):
    """The captioned pictures that are rendered and encoded to train the decoder."""

    images: int = Field(gt=0)
    category_weights: dict[Category, float] = Field(default_factory=dict)  # a missing category has weight 1


class VQRecipe(Part):
    """Geometry of the image tokenizer; names as in transformers' JanusVQVAEConfig."""

    base_channels: int = Field(multiple_of=32)
    channel_multiplier: tuple[int, ...]
    num_res_blocks: int = Field(ge=0)
    latent_channels: int
    embed_dim: int
    num_embeddings: int


class VQTrainingRecipe(Part):
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


class LanguageRecipe(Part):
    """Geometry of the decoder; names as in transformers' LlamaConfig."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    rope_theta: float


class SamplingRecipe(Part):
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


class TinyRecipe(Part):
    """Everything that decides the tiny checkpoints.

    seed: of every stage.
    base_at: share of the steps of SFT after which `tiny-base` is saved.
    grpo: what makes `tiny` of `tiny-sft`.
    """

    seed: int
    image_size: int
    held_out: tuple[Combination, ...]
    data: DataRecipe
    vq: VQRecipe
    vq_training: VQTrainingRecipe
    language: LanguageRecipe
    sft: SFTRecipe
    base_at: float = Field(gt=0, lt=1)
    grpo: GRPORecipe
    sampling: SamplingRecipe

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.vq_training.scaffold_size < self.vq.num_embeddings:
            raise ValueError("vq_training.scaffold_size must be at least vq.num_embeddings")
        if int(self.sft.steps * self.base_at) < 1:
            raise ValueError("base_at must leave at least one step of sft before it")
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


def load_recipe(name: str) -> TinyRecipe:
    """Load a recipe by its name ("tiny"), or by the path of a .toml file.

    Raises:
        RecipeError: there is no such recipe, or a field is invalid.
    """
    return read_recipe(name, TinyRecipe)
