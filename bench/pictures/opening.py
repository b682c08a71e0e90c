"""Open a generator from a command's arguments."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bench.pictures.arguments import SAMPLING, chosen_generator
from bench.pictures.best_of import BestOf
from bench.pictures.generator import Generator
from pairs.judges.opening import open_judge
from pairs.judges.settings import judge_settings


def open_generator(arguments: argparse.Namespace, *, cache: Path) -> Generator:
    """Generator that the arguments choose (`bench.pictures.arguments`).

    Args:
        arguments: checked.
        cache: SQLite file of a selector's answers, which it may share with the judge.

    Raises:
        ValueError: an argument is invalid, or what it names cannot be loaded or reached.
    """
    generator = _OPENERS[chosen_generator(arguments)](arguments)
    if arguments.best_of == 1:
        return generator
    selector = open_judge(judge_settings(arguments, "selector"), cache=cache)
    return BestOf(generator, selector, arguments.best_of)


def _open_checkpoint(arguments: argparse.Namespace) -> Generator:
    from bench.pictures.from_engine import EngineGenerator
    from model.checkpoints.load import load_from

    janus = load_from(arguments)
    janus = replace(janus, sampling=janus.sampling.override(**_sampling(arguments)))
    return EngineGenerator(janus, slots=arguments.batch, quantization=arguments.quantization)


def _open_server(arguments: argparse.Namespace) -> Generator:
    from bench.pictures.from_server import ServerGenerator

    return ServerGenerator(
        arguments.server,
        arguments.server_model,
        key=arguments.server_key,
        at_once=arguments.batch,
        sampling=_sampling(arguments),
    )


def _open_diffusers(arguments: argparse.Namespace) -> Generator:
    import torch

    from bench.pictures.from_diffusers import DiffusersGenerator
    from model.device import choose_device, choose_dtype

    device = choose_device(arguments.device)
    held = torch.float32  # diffusers loads files of any precision as float32 unless told otherwise
    return DiffusersGenerator(
        arguments.diffusers,
        revision=arguments.revision,
        device=device,
        dtype=choose_dtype(arguments.dtype, device, held),
        batch=arguments.batch,
        steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
    )


def _open_pictures(arguments: argparse.Namespace) -> Generator:
    from bench.pictures.from_folder import FolderGenerator

    return FolderGenerator(arguments.pictures, arguments.name)


def _sampling(arguments: argparse.Namespace) -> dict[str, float | int | None]:
    return {name: getattr(arguments, name) for name in SAMPLING}


_OPENERS: Mapping[str, Callable[[argparse.Namespace], Generator]] = {  # as in `bench.pictures.arguments.GENERATORS`
    "model": _open_checkpoint,
    "server": _open_server,
    "diffusers": _open_diffusers,
    "pictures": _open_pictures,
}
