"""`focusdiff-convert`: convert any loadable checkpoint to transformers' layout."""

import argparse
from pathlib import Path

from model.cli import CommandParser, add_model_arguments, run_command


def main() -> None:
    """Entry point of `focusdiff-convert`."""
    parser = CommandParser(
        prog="focusdiff-convert",
        description="Write a Janus checkpoint (DeepSeek's or transformers' layout) in transformers' layout.",
    )
    parser.add_argument("out", type=Path, help="new folder to write")
    add_model_arguments(parser, device="cpu", dtype="source")
    arguments = parser.parse_args()
    run_command(lambda: convert(arguments))


def convert(arguments: argparse.Namespace) -> None:
    """Load the model that the arguments name and save it to `arguments.out`."""
    from model.checkpoints.load import load_from
    from model.checkpoints.save import check_not_exists, save

    check_not_exists(arguments.out)
    save(load_from(arguments), arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
