"""`focusdiff-bench`: how well a checkpoint follows prompts, whether the judge can be trusted, how fast it is."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from model.cli import add_model_arguments, one_line_errors


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(prog="focusdiff-bench", description=__doc__.split("`: ")[1])
    benches = parser.add_subparsers(dest="bench", required=True)

    scores = benches.add_parser("pairshapes", help="judged pictures of unseen prompts, by category and guidance")
    add_model_arguments(scores)
    scores.add_argument("--recipe", default="tiny", help="the recipe whose held-out combinations count (default: tiny)")
    scores.add_argument("--per-category", type=int, default=100, help="prompts of each category (default: 100)")
    scores.add_argument("--seeds", type=int, default=4, help="pictures of each prompt (default: 4)")
    scores.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0], help="(default: 1 2 3 5)")
    scores.add_argument("--int8", action="store_true", help="with the weights that --int8 serves")
    scores.add_argument("--batch", type=int, default=32, help="pictures decoded together (default: 32)")
    scores.add_argument("--out", type=Path, default=Path("run/pairshapes"), help="folder of the results (resumes)")
    scores.set_defaults(run=pairshapes)

    judge = benches.add_parser("judge", help="what the exact judge says of right, wrong and damaged scenes")
    judge.add_argument("--per-category", type=int, default=100, help="pairs of each category (default: 100)")
    judge.set_defaults(run=judge_check)

    sheet = benches.add_parser("sheet", help="a contact sheet of prompt pairs")
    add_model_arguments(sheet)
    sheet.add_argument("--out", type=Path, default=Path("pairs.png"), help="PNG file (default: pairs.png)")
    sheet.set_defaults(run=draw_sheet)

    speed = benches.add_parser("speed", help="the engine beside other loops over the same weights")
    speed.add_argument("--model", help="shipped name or folder (default: tiny)")
    speed.add_argument("--geometry", help="instead: janus-pro-7b, janus-pro-1b or 12x768, with random weights")
    speed.add_argument("--device", default="cpu", help="cpu, cuda, mps or auto (default: cpu)")
    speed.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    speed.add_argument(
        "--images", type=int, nargs="+", default=[1, 4, 16], help="that arrive together (default: 1 4 16)"
    )
    speed.add_argument(
        "--rounds", type=int, default=6, help="of each timing; of several the first is not counted (default: 6)"
    )
    speed.add_argument("--arrivals", type=int, default=100, help="images of the Poisson load (default: 100)")
    speed.add_argument(
        "--baselines-up-to", type=int, default=4, metavar="N", help="images for the other loops (default: 4)"
    )
    speed.set_defaults(run=measure_speed)

    load = benches.add_parser("load", help="a server under load: percentiles, refusals, what HTTP costs")
    load.add_argument("--model", default="tiny", help="shipped name or folder (default: tiny)")
    load.add_argument("--threads", type=int, default=2, help="of the server (default: 2)")
    load.add_argument("--slots", type=int, default=16, help="guided images drawn at once (default: 16)")
    load.add_argument("--seconds", type=float, default=60, help="of each load (default: 60)")
    load.add_argument("--factors", type=float, nargs="+", default=[0.5, 1, 3], help="of capacity (default: 0.5 1 3)")
    load.set_defaults(run=measure_load)

    startup = benches.add_parser("startup", help="a serving process: start, first picture, memory")
    startup.add_argument("--model", default="tiny", help="shipped name or folder (default: tiny)")
    startup.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    startup.add_argument(
        "--fresh", action="store_true", help="also `make serve` in a new clone (downloads all packages)"
    )
    startup.set_defaults(run=measure_startup)

    arguments = parser.parse_args()
    one_line_errors(lambda: arguments.run(arguments))


def pairshapes(arguments: argparse.Namespace) -> None:
    """The score table of one checkpoint."""
    from bench.provenance import provenance
    from bench.quality.pairshapes import Picture, judge_pictures, table, unseen_prompts
    from bench.quality.reconstruction import reconstruction_scores
    from model.checkpoints.load import load_from
    from pairs.scores import mean
    from pairs.world import World
    from train.recipe import load_recipe

    for scale in arguments.guidance:
        if not 1 <= scale <= 20:
            raise ValueError(f"--guidance must be from 1 to 20, not {scale:g}")
    janus = load_from(arguments)
    place = provenance(device=janus.device, dtype=janus.dtype)
    prompts = unseen_prompts(World(load_recipe(arguments.recipe).held_out), arguments.per_category)
    seeds = range(arguments.seeds)
    pictures = [Picture(prompt, scale, seed) for scale in arguments.guidance for prompt in prompts for seed in seeds]
    if arguments.int8:
        janus = replace(janus, name=f"{janus.name}-int8")
    results = arguments.out / f"{janus.name}.jsonl"
    made = judge_pictures(janus, pictures, results, slots=arguments.batch, int8=arguments.int8)
    held_out = sum(prompt.held_out for prompt in prompts)
    sampling = ", ".join(
        f"{name} {value:g}" for name, value in janus.sampling.as_dict().items() if name != "guidance_scale"
    )
    print(f"{janus.name}, {', '.join(f'{k} {v}' for k, v in place.items())}")
    print(f"{len(prompts)} unseen prompts ({held_out} with held-out combinations), {len(seeds)} seeds each, {sampling}")
    print(table(prompts, made, arguments.guidance, seeds))
    print(
        f"reconstructions of {len(prompts)} scenes by the image tokenizer: {mean(reconstruction_scores(janus, prompts))}"
    )
    overall = {
        f"{g:g}": mean(made[(p.caption, g, s)].score for p in prompts for s in seeds).value for g in arguments.guidance
    }
    print(json.dumps({"model": janus.name, **place, "prompts": len(prompts), "seeds": len(seeds), "overall": overall}))


def judge_check(arguments: argparse.Namespace) -> None:
    """The judge's own examination."""
    from bench.provenance import provenance
    from bench.quality.judge_check import check, sample_pairs, table
    from pairs.world import World

    place = provenance(device="cpu", dtype="uint8")
    print(f"exact judge, commit {place['commit']}, {place['command']}")
    print(table(check(sample_pairs(World(), arguments.per_category))))


def draw_sheet(arguments: argparse.Namespace) -> None:
    """The contact sheet as a file."""
    from bench.quality.sheet import pair_sheet
    from model.checkpoints.load import load_from
    from pairs.files import write_atomically

    sheet = pair_sheet(load_from(arguments))
    write_atomically(arguments.out, lambda partial: sheet.save(partial, format="PNG"))


def measure_speed(arguments: argparse.Namespace) -> None:
    """The speed table."""
    from bench.speed.engine_report import report

    if arguments.model and arguments.geometry:
        raise ValueError("give either --model or --geometry")
    lines = report(
        model=arguments.model,
        geometry=arguments.geometry,
        device=arguments.device,
        threads=arguments.threads,
        batches=sorted(set(arguments.images)),
        rounds=arguments.rounds,
        arrivals=arguments.arrivals,
        baselines_up_to=arguments.baselines_up_to,
    )
    for line in lines:
        print(line, flush=True)


def measure_load(arguments: argparse.Namespace) -> None:
    """A server under load."""
    from bench.speed.load import report

    lines = report(
        arguments.model,
        threads=arguments.threads,
        slots=arguments.slots,
        seconds=arguments.seconds,
        factors=arguments.factors,
    )
    for line in lines:
        print(line, flush=True)


def measure_startup(arguments: argparse.Namespace) -> None:
    """What a serving process takes."""
    from bench.speed.startup import report

    print(report(arguments.model, threads=arguments.threads, fresh=arguments.fresh))


if __name__ == "__main__":
    main()
