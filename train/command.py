"""`focusdiff-train`: checkpoints from recipes."""

import argparse
from pathlib import Path

from model.cli import one_line_errors


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(
        prog="focusdiff-train",
        description="Train a checkpoint from a recipe. A run that was stopped goes on when called again with the same --out.",
    )
    parser.add_argument("recipe", help="name of a shipped recipe (tiny), or path of a .toml file")
    parser.add_argument("--out", type=Path, default=Path("run/tiny"), help="folder of the run (default: run/tiny)")
    arguments = parser.parse_args()
    one_line_errors(lambda: train(arguments))


def train(arguments: argparse.Namespace) -> None:
    """Check the recipe, then train."""
    from train.recipe import load_recipe

    recipe = load_recipe(arguments.recipe)

    from train.tiny import train_tiny

    for name, folder in train_tiny(recipe, arguments.out).items():
        print(f"{name}: {folder}")


if __name__ == "__main__":
    main()
