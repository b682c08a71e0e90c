"""Benches of the procedural world: its prompts, and its judge."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.benches import Benches
from bench.commands.history import add_history, keep
from model.cli import add_model_arguments, add_quantization_argument
from pairs.judges.settings import add_judge_arguments, judge_settings

if TYPE_CHECKING:
    from torch import Tensor

    from bench.world.rounding import Subject
    from model.janus import Janus

_JUDGED_BY = ("judge model", "judge weights", "judge questions")


def add_world(benches: Benches) -> None:
    """Add the benches' parsers."""
    scores = benches.add_parser("pairshapes", help="judge pictures of unseen prompts, by category and guidance scale")
    add_model_arguments(scores)
    add_judge_arguments(scores)
    scores.add_argument("--recipe", default="tiny", help="recipe that lists the held-out combinations (default: tiny)")
    scores.add_argument("--per-category", type=int, default=100, help="prompts per category (default: 100)")
    scores.add_argument("--seeds", type=int, default=4, help="pictures per prompt (default: 4)")
    scores.add_argument(
        "--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0], help="guidance scales (default: 1 2 3 5)"
    )
    scores.add_argument("--top-p", type=float, help="in place of the checkpoint's own")
    scores.add_argument(
        "--prompts",
        choices=("validation", "test"),
        default="test",
        help="validation for choices, test once, for the report (default: test)",
    )
    add_quantization_argument(scores)
    scores.add_argument("--batch", type=int, default=32, help="pictures drawn at once (default: 32)")
    scores.add_argument(
        "--out", type=Path, default=Path("run/pairshapes"), help="results folder; a stopped run resumes"
    )
    add_history(scores)
    scores.set_defaults(run=pairshapes)

    comparison = benches.add_parser(
        "compare", help="compare two checkpoints' pairshapes results, paired by prompt and seed"
    )
    comparison.add_argument("before", type=Path, help="results file of one checkpoint (.jsonl)")
    comparison.add_argument("after", type=Path, help="results file of the other")
    comparison.set_defaults(run=compare_results)

    judge = benches.add_parser("judge", help="score right, wrong and damaged scenes with the exact judge")
    judge.add_argument("--per-category", type=int, default=100, help="pairs per category (default: 100)")
    judge.set_defaults(run=judge_check)

    rounding = benches.add_parser("rounding", help="logits and codes with rounded weights against float ones, on a CPU")
    rounding.add_argument("--model", default="tiny", help="folder, hub id or shipped name (default: tiny)")
    rounding.add_argument("--geometry", help="random weights of this geometry, in place of a model")
    rounding.add_argument("--layers", type=int, help="of the geometry, instead of all")
    rounding.add_argument("--pictures", type=int, default=24, help="whose codes are compared (default: 24)")
    rounding.set_defaults(run=compare_rounding)

    sheet = benches.add_parser("sheet", help="draw a contact sheet of prompt pairs")
    add_model_arguments(sheet)
    sheet.add_argument("--out", type=Path, default=Path("pairs.png"), help="PNG file (default: pairs.png)")
    sheet.set_defaults(run=draw_sheet)


def pairshapes(arguments: argparse.Namespace) -> None:
    """Print the score table of one checkpoint."""
    settings = judge_settings(arguments)

    from bench.measurements.measurement import Measurement, Number
    from bench.world.likelihood import surprise
    from bench.world.pairshapes import Picture, judge_pictures, table, unseen_prompts
    from bench.world.reconstruction import reconstruction_scores
    from model.checkpoints.load import load_from
    from pairs.judges.opening import open_judge
    from pairs.scores import mean
    from pairs.world import World
    from train.provenance import provenance
    from train.tiny.recipe import load_recipe

    for scale in arguments.guidance:
        if not 1 <= scale <= 20:
            raise ValueError(f"--guidance must be from 1 to 20, not {scale:g}")
    janus = load_from(arguments)
    janus = replace(janus, sampling=janus.sampling.override(top_p=arguments.top_p))
    judge = open_judge(settings, device=str(janus.device), cache=arguments.out / "judgements.sqlite")
    place = provenance(device=janus.device, dtype=janus.dtype)
    world = World(load_recipe(arguments.recipe).held_out)
    prompts = unseen_prompts(world, arguments.per_category, arguments.prompts)
    seeds = range(arguments.seeds)
    pictures = [Picture(prompt, scale, seed) for scale in arguments.guidance for prompt in prompts for seed in seeds]
    if arguments.quantization:
        janus = replace(janus, name=f"{janus.name}-{arguments.quantization}")
    results = arguments.out / f"{janus.name}.jsonl"
    made = judge_pictures(
        janus,
        pictures,
        results,
        judge=judge,
        slots=arguments.batch,
        quantization=arguments.quantization,
    )
    held_out = sum(prompt.held_out for prompt in prompts)
    sampling = ", ".join(
        f"{name} {value:g}" for name, value in janus.sampling.as_dict().items() if name != "guidance_scale"
    )
    print(f"{janus.name}, judge {judge.name}, {', '.join(f'{k} {v}' for k, v in place.items())}")
    print(
        f"{len(prompts)} unseen prompts of the {arguments.prompts} set ({held_out} with held-out combinations), "
        f"{len(seeds)} seeds each, {sampling}"
    )
    print(table(prompts, made, arguments.guidance, seeds))
    reconstructions = mean(reconstruction_scores(janus, prompts, judge.judge))
    print(f"reconstructions of {len(prompts)} scenes by the image tokenizer: {reconstructions}")
    by_prompt = {
        g: [mean(made[(prompt.caption, g, seed)].score for seed in seeds).value for prompt in prompts]
        for g in arguments.guidance
    }
    numbers = [Number.of_rounds(f"score at guidance {g:g}", own, "share", "higher") for g, own in by_prompt.items()]
    numbers.append(Number("score of reconstructions", reconstructions.value, "share", "higher"))
    if arguments.quantization is None:  # the engine's matrices are rounded, the network's are not
        given_prompt, unconditional = surprise(janus, prompts)
        print(
            f"negative log-likelihood of fresh pictures, nats: {given_prompt:.4f} given the prompt, {unconditional:.4f} without"
        )
        numbers.append(Number("negative log-likelihood, given the prompt", given_prompt, "nats", "lower"))
        numbers.append(Number("negative log-likelihood, unconditional", unconditional, "nats", "lower"))
    workload = {
        "model": janus.name,
        "sampling": janus.sampling.as_dict(),
        **judge.identity,
        "prompts": len(prompts),
        "prompt set": arguments.prompts,
        "seeds": len(seeds),
    }
    keep(Measurement("pairshapes", workload, place, numbers), arguments.history)


def compare_results(arguments: argparse.Namespace) -> None:
    """Print how scores and diversity moved from one checkpoint to another."""
    from bench.world.comparison import compare
    from bench.world.pairshapes import read_results

    (before, first), (after, second) = (read_results(file) for file in (arguments.before, arguments.after))
    if [before.get(name) for name in _JUDGED_BY] != [after.get(name) for name in _JUDGED_BY]:
        raise ValueError(f"{arguments.before} and {arguments.after} were judged by different judges")
    print(f"{before['model']} → {after['model']}")
    for line in compare(first, second):
        print(line)


def compare_rounding(arguments: argparse.Namespace) -> None:
    """Print what each way of rounding the weights changes."""
    import torch

    from bench.world.rounding import measure_rounding
    from train.provenance import provenance

    if arguments.pictures < 1:
        raise ValueError(f"--pictures must be at least 1, not {arguments.pictures}")
    subject, prompts, codes = _random_subject(arguments) if arguments.geometry else _model_subject(arguments)
    place = provenance(device=torch.device("cpu"), dtype=torch.float32)
    print(
        f"{arguments.geometry or arguments.model}, {len(codes)} pictures × {codes.shape[1]} places, "
        f"{', '.join(f'{k} {v}' for k, v in place.items())}"
    )
    print("| weights | bytes ÷ bfloat16 | logit error | moved | same code |")
    print("|---|---:|---:|---:|---:|")
    for one in measure_rounding(subject, prompts, codes):
        print(f"| {one.name} | {one.size:.3f} | {one.error:.4f} | {one.moved:.4f} | {one.same} |", flush=True)


def _model_subject(arguments: argparse.Namespace) -> "tuple[Subject, list[list[int]], Tensor]":
    """A model, its prompts of unseen scenes, and its pictures' codes."""
    from bench.world.pairshapes import unseen_prompts
    from bench.world.rounding import Subject
    from model.checkpoints.load import load
    from model.decoder import Decoder
    from model.decoder_weights import matrix_shapes
    from model.generate import generate
    from pairs.scene import CATEGORIES
    from pairs.world import World
    from train.tiny.recipe import load_recipe

    def opened() -> "Janus":
        return load(arguments.model, device="cpu", dtype="float32")

    janus, count = opened(), arguments.pictures
    unseen = unseen_prompts(World(load_recipe("tiny").held_out), -(-count // len(CATEGORIES)), "validation")[:count]
    prompts = [janus.encode(prompt.caption) for prompt in unseen]
    subject = Subject(
        lambda quantization: Decoder(opened(), native=False, quantization=quantization, release=True),
        matrix_shapes(janus.network),
        janus.ids,
        janus.sampling,
    )
    return subject, prompts, generate(janus, prompts, seeds=range(count))


def _random_subject(arguments: argparse.Namespace) -> "tuple[Subject, list[list[int]], Tensor]":
    """A geometry with random weights, and prompts and codes at random, since its own would be no better."""
    import torch

    from bench.speed.geometry import random_janus
    from bench.world.random_layers import deep_decoder
    from bench.world.rounding import Subject
    from model.decoder_weights import matrix_shapes

    shape = random_janus(arguments.geometry, torch.device("meta"), torch.float32, layers=arguments.layers)
    subject = Subject(
        lambda quantization: deep_decoder(arguments.geometry, quantization, layers=arguments.layers),
        matrix_shapes(shape.network),
        shape.ids,
        shape.sampling,
    )
    codes = torch.randint(shape.codebook_size, (arguments.pictures, 64), generator=torch.Generator().manual_seed(0))
    return subject, [[1, *range(3, 30), 2]] * arguments.pictures, codes


def judge_check(arguments: argparse.Namespace) -> None:
    """Print the exact judge's scores for right, wrong and damaged scenes."""
    from bench.world.judge_check import check, sample_pairs, table
    from pairs.world import World
    from train.provenance import provenance

    place = provenance(device="cpu", dtype="uint8")
    print(f"exact judge, commit {place['commit']}, {place['command']}")
    print(table(check(sample_pairs(World(), arguments.per_category))))


def draw_sheet(arguments: argparse.Namespace) -> None:
    """Write the contact sheet."""
    from bench.world.sheet import pair_sheet
    from model.checkpoints.load import load_from
    from pairs.files import write_atomically

    sheet = pair_sheet(load_from(arguments))
    write_atomically(arguments.out, lambda partial: sheet.save(partial, format="PNG"))
