"""Arguments of commands that draw pictures of a benchmark. Imports no torch."""

import argparse
from pathlib import Path

from model.cli import add_model_arguments, add_sampling_arguments


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run's folder, and the arguments that `bench.pictures.opening.open_generator` reads."""
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run, which resumes there")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first picture (default: 0)")
    parser.add_argument("--batch", type=int, default=32, help="pictures drawn, or requested, at once (default: 32)")
    parser.add_argument("--int8", action="store_true", help="use 8-bit weights, as focusdiff-serve --int8")
    add_model_arguments(parser)
    others = parser.add_argument_group("other generators")
    others.add_argument("--server", metavar="URL", help="an OpenAI-compatible image server, with /v1")
    others.add_argument("--server-model", metavar="NAME", help="model name there")
    others.add_argument("--server-key", default="none", metavar="KEY", help="API key")
    others.add_argument("--diffusers", metavar="SOURCE", help="folder or hub id of a text-to-image pipeline")
    others.add_argument("--steps", type=int, help="denoising steps of the pipeline (default: its own)")
    others.add_argument("--pictures", type=Path, metavar="DIR", help="pictures drawn elsewhere, in the official layout")
    others.add_argument("--name", metavar="NAME", help="name of the model that drew --pictures")
    best = parser.add_argument_group("best of several")
    best.add_argument("--best-of", type=int, default=1, metavar="N", help="draw N of each picture, keep the best")
    best.add_argument("--selector", default="exact", metavar="JUDGE", help="judge that chooses (default: exact)")
    best.add_argument("--selector-model", metavar="NAME", help="model name at the selector's endpoint")
    add_sampling_arguments(parser)


def check_run_arguments(arguments: argparse.Namespace) -> None:
    """Check the arguments, before anything is loaded.

    Raises:
        ValueError: one is out of range, missing or of another generator.
    """
    if arguments.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {arguments.batch}")
    if arguments.seed < 0:
        raise ValueError(f"--seed must be at least 0, not {arguments.seed}")
    if arguments.steps is not None and arguments.steps < 1:
        raise ValueError(f"--steps must be at least 1, not {arguments.steps}")
    if arguments.best_of < 1:
        raise ValueError(f"--best-of must be at least 1, not {arguments.best_of}")
    chosen = [name for name in ("server", "diffusers", "pictures") if getattr(arguments, name) is not None]
    if len(chosen) > 1:
        raise ValueError(f"give only one of --{', --'.join(chosen)}")
    for name, needed in (("server_model", "server"), ("steps", "diffusers"), ("name", "pictures")):
        if getattr(arguments, name) is not None and getattr(arguments, needed) is None:
            raise ValueError(f"--{name.replace('_', '-')} needs --{needed}")
    if arguments.best_of > 1 and arguments.pictures is not None:
        raise ValueError("--best-of draws, but --pictures were drawn elsewhere")
    if arguments.pictures is not None and arguments.name is None:
        raise ValueError("--pictures needs --name, the name of the model that drew them")
