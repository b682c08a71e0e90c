"""What the command lines share: how a model is named, and one-line errors with exit code 2."""

import argparse
import sys
from collections.abc import Callable


def add_model_arguments(parser: argparse.ArgumentParser, *, device: str = "auto", dtype: str = "auto") -> None:
    """The arguments that `load_from` reads, with the defaults that suit the command."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="tiny", help="folder, hub id (owner/name) or shipped name (default: tiny)")
    group.add_argument(
        "--weights", metavar="FILE", help="a .pt state dict to lay over the model (FocusDiff's own format)"
    )
    group.add_argument("--tokenizer", metavar="DIR", help="take the tokenizer from here")
    group.add_argument("--revision", help="of the hub repository")
    group.add_argument("--device", default=device, help="auto, cpu, cuda or mps (default: %(default)s)")
    group.add_argument(
        "--dtype",
        default=dtype,
        help="auto, source (the files' own), float32, bfloat16 or float16 (default: %(default)s)",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Sampling settings; what is not given comes from the checkpoint's own settings."""
    group = parser.add_argument_group("sampling (default: the checkpoint's own settings)")
    group.add_argument("--guidance-scale", type=float, metavar="G", help="1 to 20; 1 is unguided")
    group.add_argument("--temperature", type=float, metavar="T", help="0 to 2; 0 is greedy")
    group.add_argument("--top-k", type=int, metavar="K", help="keep the k likeliest codes; 0 keeps all")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="keep the codes that reach this probability; 1 keeps all"
    )


def one_line_errors(main: Callable[[], None]) -> None:
    """Run a command; what is wrong with its input is said in one line, and the exit code is 2."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        # every error of ours is a ValueError with a message for people; an OSError names its file
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
