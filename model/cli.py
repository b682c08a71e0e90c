"""Shared parts of the command lines: model and sampling arguments, and one-line errors with exit code 2."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from model.quantization import QUANTIZATIONS


class CommandParser(argparse.ArgumentParser):
    """Parser of a command and its subcommands, whose options cannot be abbreviated.

    Commands are recorded with the values of `--…-key` hidden, which an abbreviation would escape.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})


def add_model_arguments(parser: argparse.ArgumentParser, *, device: str = "auto", dtype: str = "auto") -> None:
    """Add the arguments that `model.checkpoints.load.load_from` reads; `device` and `dtype` are their defaults."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="tiny", help="folder, hub id (owner/name) or shipped name (default: tiny)")
    group.add_argument(
        "--weights", metavar="FILE", help="a .pt state dict whose tensors replace the model's (FocusDiff's own format)"
    )
    group.add_argument("--tokenizer", metavar="DIR", help="folder or hub id to take the tokenizer from")
    group.add_argument("--revision", help="branch, tag or commit of the hub repository")
    group.add_argument("--device", default=device, help="auto, cpu, cuda or mps (default: %(default)s)")
    group.add_argument(
        "--dtype",
        default=dtype,
        help="auto, source (the files' own), float32, bfloat16 or float16 (default: %(default)s)",
    )


def add_quantization_argument(parser: argparse.ArgumentParser) -> None:
    """Add how the decoder's weights are rounded."""
    parser.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="round the decoder's weights, as focusdiff-serve --quantization: int8 on a CPU, where "
        "keys and values become bfloat16; any on an NVIDIA GPU, where fp8 also rounds keys and values",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sampling settings; those not given default to the checkpoint's own."""
    group = parser.add_argument_group("sampling (default: the checkpoint's own settings)")
    group.add_argument("--guidance-scale", type=float, metavar="G", help="1 to 20; 1 is unguided")
    group.add_argument("--temperature", type=float, metavar="T", help="0 to 2; 0 is greedy")
    group.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest codes; 0 keeps all")
    group.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="keep the likeliest codes that together reach this probability; 1 keeps all",
    )


def run_command(main: Callable[[], None]) -> None:
    """Run a command; report bad input in one line on stderr and exit with code 2 (Ctrl-C: 130)."""
    # prompts are tokenised one at a time, so a thread pool for each would only cost time; engines inherit this
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        # our own errors are ValueErrors with a message for users; an OSError names its file
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
