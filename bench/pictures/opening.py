"""Open a generator from a command's arguments."""

import argparse
from dataclasses import replace

from bench.pictures.best_of import BestOf
from bench.pictures.errors import GenerationError
from bench.pictures.from_engine import EngineGenerator
from bench.pictures.generator import Generator
from pairs.judges.opening import open_judge
from pairs.judges.settings import JudgeSettings


def open_generator(arguments: argparse.Namespace) -> Generator:
    """Generator that the arguments choose (`bench.pictures.arguments`).

    Raises:
        ValueError: an argument is invalid, or what it names cannot be loaded or reached.
    """
    generator = _open_one(arguments)
    if arguments.best_of == 1:
        return generator
    selector = open_judge(JudgeSettings(source=arguments.selector, model=arguments.selector_model))
    return BestOf(generator, selector, arguments.best_of)


def _open_one(arguments: argparse.Namespace) -> Generator:
    sampling = {name: getattr(arguments, name) for name in ("guidance_scale", "temperature", "top_k", "top_p")}
    if arguments.server is not None:
        from bench.pictures.from_server import ServerGenerator

        return ServerGenerator(
            arguments.server,
            arguments.server_model,
            key=arguments.server_key,
            at_once=arguments.batch,
            sampling=sampling,
        )
    if arguments.pictures is not None:
        from bench.pictures.from_folder import FolderGenerator

        return FolderGenerator(arguments.pictures, arguments.name)
    if arguments.diffusers is not None:
        return _open_diffusers(arguments)
    from model.checkpoints.load import load_from

    janus = load_from(arguments)
    janus = replace(janus, sampling=janus.sampling.override(**sampling))
    return EngineGenerator(janus, slots=arguments.batch, int8=arguments.int8)


def _open_diffusers(arguments: argparse.Namespace) -> Generator:
    import torch

    from bench.pictures.from_diffusers import DiffusersGenerator
    from model.device import choose_device, choose_dtype

    for name in ("temperature", "top_k", "top_p"):
        if getattr(arguments, name) is not None:
            raise GenerationError(f"--{name.replace('_', '-')} is no setting of a diffusers pipeline")
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
