"""`focusdiff-convert`: any checkpoint that loads, written in transformers' layout."""

import argparse
from pathlib import Path

from model.cli import add_model_arguments, one_line_errors


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(
        prog="focusdiff-convert",
        description="Write a Janus checkpoint (DeepSeek's or transformers' layout) in transformers' layout.",
    )
    parser.add_argument("out", type=Path, help="new folder to write")
    add_model_arguments(parser)
    arguments = parser.parse_args()
    one_line_errors(lambda: convert(arguments))


def convert(arguments: argparse.Namespace) -> None:
    """Load and save; the dtype is the source's unless one is named."""
    from model.checkpoint import load, save

    janus = load(
        arguments.model,
        device="cpu" if arguments.device == "auto" else arguments.device,
        dtype="source" if arguments.dtype == "auto" else arguments.dtype,
        tokenizer=arguments.tokenizer,
        overlay=arguments.weights,
        revision=arguments.revision,
    )
    save(janus, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
