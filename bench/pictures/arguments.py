"""Arguments of commands that draw pictures of a benchmark. Imports no torch."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from bench.pictures.options import Part, given
from model.cli import add_model_arguments, add_quantization_argument, add_sampling_arguments
from pairs.judges.settings import add_judge_arguments, judge_settings

SAMPLING = ("guidance_scale", "temperature", "top_k", "top_p")
_DRAWING = ("seed", "batch", "best_of")
GENERATORS: Mapping[str, Part] = {  # by the argument that chooses one
    "model": Part(
        "--model",
        frozenset(
            {"model", "weights", "tokenizer", "revision", "device", "dtype", "quantization", *SAMPLING, *_DRAWING}
        ),
    ),
    "server": Part("--server", frozenset({"server", "server_model", "server_key", *SAMPLING, *_DRAWING})),
    "diffusers": Part(
        "--diffusers", frozenset({"diffusers", "revision", "device", "dtype", "steps", "guidance_scale", *_DRAWING})
    ),
    "pictures": Part("--pictures", frozenset({"pictures", "name"})),
}
BEST_OF = Part(
    "--best-of",
    frozenset({"selector", *(f"selector_{one}" for one in ("model", "key", "questions", "at_once", "seconds"))}),
)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run's folder, and the arguments that `bench.pictures.opening.open_generator` reads."""
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run, which resumes there")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first picture (default: 0)")
    parser.add_argument("--batch", type=int, default=32, help="pictures drawn, or requested, at once (default: 32)")
    add_quantization_argument(parser)
    add_model_arguments(parser)
    others = parser.add_argument_group("other generators")
    others.add_argument("--server", metavar="URL", help="an OpenAI-compatible image server, with /v1")
    others.add_argument("--server-model", metavar="NAME", help="model name there")
    others.add_argument("--server-key", default="none", metavar="KEY", help="API key")
    others.add_argument("--diffusers", metavar="SOURCE", help="folder or hub id of a text-to-image pipeline")
    others.add_argument("--steps", type=int, help="denoising steps of the pipeline (default: its own)")
    others.add_argument("--pictures", type=Path, metavar="DIR", help="pictures drawn elsewhere, in the official layout")
    others.add_argument("--name", metavar="NAME", help="name of the model that drew --pictures")
    add_sampling_arguments(parser)
    parser.add_argument(
        "--best-of", type=int, default=1, metavar="N", help="draw N of each picture and keep the selector's choice"
    )
    add_judge_arguments(parser, "selector")


def check_run_arguments(arguments: argparse.Namespace) -> None:
    """Check the arguments, before anything is loaded.

    Raises:
        ValueError: one is out of range or missing, or two choose different generators.
    """
    for name in ("batch", "steps", "best_of"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if arguments.seed < 0:
        raise ValueError(f"--seed must be at least 0, not {arguments.seed}")
    chosen = [part.option for name, part in GENERATORS.items() if given(arguments, name)]
    if len(chosen) > 1:
        raise ValueError(f"give only one of {', '.join(chosen)}")
    if arguments.pictures is not None and arguments.name is None:
        raise ValueError("--pictures needs --name, the name of the model that drew them")
    if arguments.best_of > 1:
        judge_settings(arguments, "selector")


def chosen_generator(arguments: argparse.Namespace) -> str:
    """Key in `GENERATORS` of the one that the arguments choose."""
    return next((name for name in GENERATORS if given(arguments, name)), "model")
