"""Recipes: everything that decides a run, one TOML file each, validated before torch is imported."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pairs.files import write_atomically

RECIPES = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """Unusable recipe; the message names the file or folder and the field."""


class Part(BaseModel):
    """A recipe or a part of one: immutable; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Part)


def read_recipe(name: str, kind: type[R], *, folder: Path = RECIPES) -> R:
    """Read a recipe: a shipped one of `folder` by name, any other by the path of its .toml file.

    Raises:
        RecipeError: there is no such recipe, or a field is invalid.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    try:
        return kind.model_validate(tomllib.loads(path.read_text()))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise RecipeError(f"no recipe {name!r}: give one of {known}, or the path of a .toml file") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}." for part in first["loc"]).rstrip(".")
        raise RecipeError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None


def override(recipe: R, *, seed: int | None, steps: int | None) -> R:
    """Replace a recipe's seed and number of steps, where these are given.

    Raises:
        RecipeError: one of them is too small.
    """
    given = {field: value for field, value in (("seed", seed), ("steps", steps)) if value is not None}
    if any(value < (field == "steps") for field, value in given.items()):
        raise RecipeError("--seed must be at least 0, and --steps at least 1")
    return recipe.model_copy(update=given)


def claim_manifest(file: Path, mine: Mapping[str, Any]) -> None:
    """Record what a run trains from, so that nothing else resumes it.

    Raises:
        RecipeError: the run was started from something else.
    """
    if file.exists():
        theirs = json.loads(file.read_text())
        for name, value in mine.items():
            if theirs.get(name) != value:
                raise RecipeError(
                    f"{file}: this run has {name} {theirs.get(name)!r}, not {value!r}: choose another --out"
                )
    write_atomically(file, lambda partial: partial.write_text(json.dumps(dict(mine), indent=1)))


def claim_folder(folder: Path, recipe: Part) -> None:
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
