"""The study of an ablation: its arms, seeds, rates and declared contrasts, one TOML file, validated before training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from pairs.scene import Category
from train.grpo.recipe import GRPORecipe
from train.recipe import Part, RecipeError, read_recipe
from train.sft.recipe import SFTRecipe

T = TypeVar("T")


class Arm(Part):
    """One way of training.

    method: "none" is the start itself.
    change: what differs from the study's recipe of the method.
    """

    about: str
    method: Literal["none", "sft", "grpo"] = "grpo"
    change: dict[str, Any] = Field(default_factory=dict)


class Tuning(Part):
    """Trials that choose the learning rates of each arm.

    factors: the arm's rates are multiplied by each of these once.
    seed: of all trials.
    """

    factors: tuple[float, ...]
    seed: int


class Study(Part):
    """A study.

    starts: checkpoints, and the factor of all learning rates there.
    seeds: of each arm's runs.
    left_out: category of the procedural world that no arm trains on.
    grpo, sft: recipes of the two methods.
    contrasts: pairs of arms (after, before) that are compared, by family.
    """

    seeds: tuple[int, ...] = Field(min_length=2)
    left_out: Category
    starts: dict[str, float]
    tuning: Tuning
    grpo: dict[str, Any]
    sft: dict[str, Any]
    arms: dict[str, Arm]
    contrasts: dict[str, tuple[tuple[str, str], ...]]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.tuning.seed in self.seeds:
            raise ValueError(f"tuning.seed {self.tuning.seed} is one of the seeds")
        for name in self.arms:
            try:
                self.recipe(name, seed=0, factor=1.0)
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(f"arms.{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        for family, pairs in self.contrasts.items():
            for name in (name for pair in pairs for name in pair):
                if name not in self.arms:
                    raise ValueError(f"contrasts.{family}: there is no arm {name!r}")
        return self

    def recipe(self, arm: str, *, seed: int, factor: float) -> GRPORecipe | SFTRecipe | None:
        """Recipe of an arm, with all its learning rates multiplied by a factor; None for the start itself."""
        chosen = self.arms[arm]
        if chosen.method == "none":
            return None
        common = {"seed": seed, "category_weights": {self.left_out: 0.0}}
        if chosen.method == "sft":
            sft = SFTRecipe.model_validate(merged(self.sft, chosen.change) | common)
            rates = {name: factor * getattr(sft, name) for name in ("learning_rate", "matrix_learning_rate")}
            return sft.model_copy(update=rates)
        grpo = GRPORecipe.model_validate(merged(self.grpo, chosen.change) | common)
        points = [{"at": p.at, "value": factor * p.value, "by": p.by} for p in grpo.update.learning_rate]
        update = type(grpo.update).model_validate(grpo.update.model_dump() | {"learning_rate": points})
        return grpo.model_copy(update={"update": update})

    def variant(self, change: Mapping[str, Any], *, seed: int) -> GRPORecipe:
        """The study's recipe of GRPO with changes."""
        return GRPORecipe.model_validate(merged(self.grpo, change) | {"seed": seed})


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A table with another's values laid over it, table by table."""
    both = {
        name: merged(base[name], value) if isinstance(value, Mapping) and isinstance(base.get(name), Mapping) else value
        for name, value in change.items()
    }
    return {**base, **both}


def load_study(name: str) -> Study:
    """Load a study by its name, or by the path of a .toml file.

    Raises:
        RecipeError: there is no such study, or a field is invalid.
    """
    return read_recipe(name, Study)


def select(names: Sequence[T], known: Iterable[T], *, option: str) -> tuple[T, ...]:
    """The chosen names, or all known ones if none are chosen.

    Raises:
        RecipeError: a name is not known.
    """
    every = tuple(known)
    for name in names:
        if name not in every:
            raise RecipeError(f"{option}: no {name!r}; there are {', '.join(map(str, every))}")
    return tuple(names) or every
