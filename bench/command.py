"""`focusdiff-bench`: measure how well a checkpoint follows prompts, how reliable the judge is, and speed."""

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from model.cli import add_model_arguments, run_command
from pairs.judges.settings import add_judge_arguments, judge_settings

_JUDGED_BY = ("judge model", "judge weights", "judge questions")


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(prog="focusdiff-bench", description=__doc__.split("`: ")[1])
    benches = parser.add_subparsers(dest="bench", required=True)

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
    scores.add_argument("--int8", action="store_true", help="use 8-bit weights, as focusdiff-serve --int8")
    scores.add_argument("--batch", type=int, default=32, help="pictures drawn at once (default: 32)")
    scores.add_argument(
        "--out", type=Path, default=Path("run/pairshapes"), help="results folder; a stopped run resumes"
    )
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

    sheet = benches.add_parser("sheet", help="draw a contact sheet of prompt pairs")
    add_model_arguments(sheet)
    sheet.add_argument("--out", type=Path, default=Path("pairs.png"), help="PNG file (default: pairs.png)")
    sheet.set_defaults(run=draw_sheet)

    speed = benches.add_parser("speed", help="time the engine and other loops on the same weights")
    speed.add_argument("--model", help="shipped name or folder (default: tiny)")
    speed.add_argument("--geometry", help="random weights instead: janus-pro-7b, janus-pro-1b or 12x768")
    speed.add_argument("--device", default="cpu", help="cpu, cuda, mps or auto (default: cpu)")
    speed.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    speed.add_argument(
        "--images", type=int, nargs="+", default=[1, 4, 16], help="images that arrive together (default: 1 4 16)"
    )
    speed.add_argument(
        "--rounds", type=int, default=6, help="rounds per timing; the first of several is a warm-up (default: 6)"
    )
    speed.add_argument("--arrivals", type=int, default=100, help="images of the Poisson load; 0: none (default: 100)")
    speed.add_argument(
        "--baselines-up-to", type=int, default=4, metavar="N", help="most images for the other loops (default: 4)"
    )
    speed.set_defaults(run=measure_speed)

    training = benches.add_parser("training", help="time steps of GRPO by part, rollouts, and the trainer's pass")
    training.add_argument("--model", default="tiny-base", help="shipped name or folder (default: tiny-base)")
    training.add_argument("--recipe", default="pair_grpo", help="of GRPO, by name or path (default: pair_grpo)")
    training.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: cpu)")
    training.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    training.add_argument("--steps", type=int, default=9, help="training steps that are timed (default: 9)")
    training.add_argument("--rounds", type=int, default=3, help="rounds of the other timings (default: 3)")
    training.set_defaults(run=measure_training)

    load = benches.add_parser("load", help="put a server under load: latency percentiles, refusals, cost of HTTP")
    load.add_argument("--model", default="tiny", help="shipped name or folder (default: tiny)")
    load.add_argument("--threads", type=int, default=2, help="CPU threads of the server (default: 2)")
    load.add_argument("--slots", type=int, default=16, help="guided images drawn at once (default: 16)")
    load.add_argument("--seconds", type=float, default=60, help="seconds per load (default: 60)")
    load.add_argument(
        "--factors",
        type=float,
        nargs="+",
        default=[0.5, 1, 3],
        help="arrival rates as multiples of capacity (default: 0.5 1 3)",
    )
    load.set_defaults(run=measure_load)

    triton = benches.add_parser("triton", help="compare a front of Triton with a server that draws itself")
    triton.add_argument("--model", default="tiny", help="shipped name or folder (default: tiny)")
    triton.add_argument("--threads", type=int, default=1, help="CPU threads of each engine (default: 1)")
    triton.add_argument("--slots", type=int, default=16, help="guided images drawn at once (default: 16)")
    triton.add_argument("--seconds", type=float, default=20, help="seconds per load (default: 20)")
    triton.add_argument("--times", type=int, default=4, help="rounds, each with new processes (default: 4)")
    triton.set_defaults(run=measure_triton)

    waiting = benches.add_parser("waiting", help="how an engine's threads wait, while other work keeps cores busy")
    waiting.add_argument("--model", default="tiny", help="shipped name or folder (default: tiny)")
    waiting.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of an engine (default: 1 2)")
    waiting.add_argument("--slots", type=int, default=16, help="guided images drawn at once (default: 16)")
    waiting.add_argument("--seconds", type=float, default=4, help="seconds per time slice (default: 4)")
    waiting.add_argument("--times", type=int, default=4, help="time slices of each engine (default: 4)")
    waiting.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="busy processes (default: 0 1 2)")
    waiting.set_defaults(run=measure_waiting)

    startup = benches.add_parser("startup", help="time a server's start and first picture, and measure its memory")
    startup.add_argument("--model", default="tiny", help="shipped name or folder (default: tiny)")
    startup.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    startup.add_argument(
        "--fresh", action="store_true", help="also time `make serve` in a new clone (downloads all packages)"
    )
    startup.set_defaults(run=measure_startup)

    arguments = parser.parse_args()
    run_command(lambda: arguments.run(arguments))


def pairshapes(arguments: argparse.Namespace) -> None:
    """Print the score table of one checkpoint."""
    settings = judge_settings(arguments)

    from bench.quality.likelihood import surprise
    from bench.quality.pairshapes import Picture, judge_pictures, table, unseen_prompts
    from bench.quality.reconstruction import reconstruction_scores
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
    if arguments.int8:
        janus = replace(janus, name=f"{janus.name}-int8")
    results = arguments.out / f"{janus.name}.jsonl"
    made = judge_pictures(janus, pictures, results, judge=judge, slots=arguments.batch, int8=arguments.int8)
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
    given_prompt, unconditional = surprise(janus, prompts)
    print(
        f"negative log-likelihood of fresh pictures: {given_prompt:.4f} given the prompt, {unconditional:.4f} without, nats"
    )
    overall = {
        f"{g:g}": mean(made[(p.caption, g, s)].score for p in prompts for s in seeds).value for g in arguments.guidance
    }
    sizes = {"prompts": len(prompts), "seeds": len(seeds)}
    print(json.dumps({"model": janus.name, **judge.identity, **place, **sizes, "overall": overall}))


def compare_results(arguments: argparse.Namespace) -> None:
    """Print how scores and diversity moved from one checkpoint to another."""
    from bench.quality.comparison import compare
    from bench.quality.pairshapes import read_results

    (before, first), (after, second) = (read_results(file) for file in (arguments.before, arguments.after))
    if [before.get(name) for name in _JUDGED_BY] != [after.get(name) for name in _JUDGED_BY]:
        raise ValueError(f"{arguments.before} and {arguments.after} were judged by different judges")
    print(f"{before['model']} → {after['model']}")
    for line in compare(first, second):
        print(line)


def judge_check(arguments: argparse.Namespace) -> None:
    """Print the exact judge's scores for right, wrong and damaged scenes."""
    from bench.quality.judge_check import check, sample_pairs, table
    from pairs.world import World
    from train.provenance import provenance

    place = provenance(device="cpu", dtype="uint8")
    print(f"exact judge, commit {place['commit']}, {place['command']}")
    print(table(check(sample_pairs(World(), arguments.per_category))))


def draw_sheet(arguments: argparse.Namespace) -> None:
    """Write the contact sheet."""
    from bench.quality.sheet import pair_sheet
    from model.checkpoints.load import load_from
    from pairs.files import write_atomically

    sheet = pair_sheet(load_from(arguments))
    write_atomically(arguments.out, lambda partial: sheet.save(partial, format="PNG"))


def measure_speed(arguments: argparse.Namespace) -> None:
    """Print the speed tables."""
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
    _print(lines)


def measure_training(arguments: argparse.Namespace) -> None:
    """Print the measurements of training."""
    from bench.speed.training_report import report

    lines = report(
        model=arguments.model,
        recipe=arguments.recipe,
        device=arguments.device,
        threads=arguments.threads,
        steps=arguments.steps,
        rounds=arguments.rounds,
    )
    _print(lines)


def measure_load(arguments: argparse.Namespace) -> None:
    """Print the measurements of a server under load."""
    from bench.speed.load import report

    lines = report(
        arguments.model,
        threads=arguments.threads,
        slots=arguments.slots,
        seconds=arguments.seconds,
        factors=arguments.factors,
    )
    _print(lines)


def measure_triton(arguments: argparse.Namespace) -> None:
    """Print throughput and latency of a server beside those of a front of Triton."""
    from bench.speed.triton import report

    lines = report(
        arguments.model,
        threads=arguments.threads,
        slots=arguments.slots,
        seconds=arguments.seconds,
        times=arguments.times,
    )
    _print(lines)


def measure_waiting(arguments: argparse.Namespace) -> None:
    """Print the throughput of engines whose threads wait in different ways."""
    from bench.speed.waiting import report

    lines = report(
        arguments.model,
        threads=arguments.threads,
        slots=arguments.slots,
        seconds=arguments.seconds,
        times=arguments.times,
        busy=arguments.busy,
    )
    _print(lines)


def measure_startup(arguments: argparse.Namespace) -> None:
    """Print a server's start time and memory."""
    from bench.speed.startup import report

    print(report(arguments.model, threads=arguments.threads, fresh=arguments.fresh))


def _print(lines: Iterable[str]) -> None:
    """Print lines as they are measured."""
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
