"""Pairs from the command line's settings: of the procedural world, or from files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.janus import Janus
from pairs.scene import CATEGORIES, Category, Combination
from pairs.world import World
from train.data.listed import open_pairs
from train.data.pairs import PairSource, WorldPairs
from train.data.validation import Report
from train.tiny.recipe import load_recipe


@dataclass(frozen=True)
class DataSettings:
    """Training data, as named on the command line.

    path: "world", the procedural one, or a file or folder (`train.data.listed.open_pairs`).
    prompt_columns, image_columns: of Parquet files; recognised if empty.
    held_out: combinations that the procedural world leaves out; the recipe of `tiny` lists them if None.
    """

    path: str
    prompt_columns: tuple[str, ...] = ()
    image_columns: tuple[str, ...] = ()
    held_out: tuple[Combination, ...] | None = None


@dataclass(frozen=True)
class OpenedPairs:
    """Pairs that are ready to be trained on.

    key: tells data sets apart.
    report: of the validation of files.
    """

    source: PairSource
    key: str
    report: Report | None = None


def open_source(
    settings: DataSettings, janus: Janus, *, seed: int, category_weights: Mapping[Category, float]
) -> OpenedPairs:
    """Open the pairs that a model is to be trained on.

    Args:
        settings: what to open.
        janus: the model.
        seed, category_weights: of the procedural world's pairs; a missing category has weight 1.

    Raises:
        DataError: the data cannot be used.
    """
    if settings.path == "world":
        weights = tuple(category_weights.get(category, 1.0) for category in CATEGORIES)
        world = World(load_recipe("tiny").held_out if settings.held_out is None else settings.held_out)
        return OpenedPairs(WorldPairs(world, seed, janus.image_size, weights), "world")
    pairs, report = open_pairs(
        Path(settings.path), janus, prompt_columns=settings.prompt_columns, image_columns=settings.image_columns
    )
    return OpenedPairs(pairs, pairs.fingerprint, report)
