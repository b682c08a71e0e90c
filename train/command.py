"""`focusdiff-train`: checkpoints from recipes."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from model.cli import run_command


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(
        prog="focusdiff-train",
        description="Train a checkpoint from a recipe. To resume a stopped run, call again with the same --out.",
    )
    parser.add_argument("recipe", help="name of a shipped recipe (tiny), or path of a .toml file")
    parser.add_argument("--out", type=Path, default=Path("run/tiny"), help="folder of the run (default: run/tiny)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    arguments = parser.parse_args()
    run_command(lambda: train(arguments))


def train(arguments: argparse.Namespace) -> None:
    """Check the recipe, then train."""
    from train.tiny.recipe import load_recipe

    recipe = load_recipe(arguments.recipe)
    if find_spec("matplotlib") is None:
        raise ValueError("training needs matplotlib for its curves: run pip install 'focusdiff[train]', or make train")

    from model.device import choose_device
    from train.tiny.pipeline import train_tiny

    for name, folder in train_tiny(recipe, arguments.out, choose_device(arguments.device)).items():
        print(f"{name}: {folder}")


if __name__ == "__main__":
    main()
