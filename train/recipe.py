"""A training recipe: one TOML file, checked before anything heavy is imported."""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
    """See `train.vq_trainer.VQSettings`; `images` is how many pictures without captions are drawn for it."""

    images: int = Field(gt=0)
    steps: int
    batch_size: int
    learning_rate: float
    own_learning_rate: float
    continuous_steps: int
    thin_at_step: int
    edge_weight: float
    commitment: float
    locality: float
    scaffold_embeddings: int
    codebook_decay: float = Field(ge=0, lt=1)
    restart_below: float
    separation: float


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
    """See `train.sft.SFTSettings`; `base_at` is the share of the steps at which `tiny-base` is kept."""

    steps: int
    batch_size: int
    learning_rate: float
    matrix_learning_rate: float
    warmup: int
    weight_decay: float
    drop_prompt: float = Field(ge=0, le=1)
    unconditional_smoothing: float = Field(ge=0, lt=1)
    average_decay: float = Field(ge=0, lt=1)
    base_at: float = Field(gt=0, lt=1)


class SamplingRecipe(_Part):
    """The settings that the checkpoint is sampled with unless a request says otherwise."""

    guidance_scale: float
    temperature: float
    top_k: int
    top_p: float


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
        raise RecipeError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
