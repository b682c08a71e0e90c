"""Benches of speed, load and memory."""

import argparse
from functools import partial
from pathlib import Path

from bench.commands.benches import Benches
from bench.commands.history import add_history, keep
from bench.commands.threads import let_threads_sleep

_show = partial(print, flush=True)


def add_speed(benches: Benches) -> None:
    """Add the benches' parsers."""
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

    jacobi = benches.add_parser("jacobi", help="time Jacobi decoding against single places, and what it follows from")
    jacobi.add_argument(
        "--model", default="tiny", help="shipped name or folder, whose confirmation is recorded (default: tiny)"
    )
    jacobi.add_argument(
        "--geometry", help="time random weights instead, with the recorded confirmation: janus-pro-1b or 12x768"
    )
    jacobi.add_argument(
        "--images", type=int, nargs="+", default=[1], help="images drawn together with --geometry (default: 1)"
    )
    jacobi.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    jacobi.add_argument("--rounds", type=int, default=8, help="rounds per timing (default: 8)")
    jacobi.add_argument("--cases", type=int, default=20, help="pairs of prompts recorded (default: 20)")
    jacobi.add_argument(
        "--seconds", type=float, default=4, help="per time slice of a saturated engine; 0: none (default: 4)"
    )
    jacobi.add_argument("--plot", type=Path, help="file for a picture of the confirmation (PNG)")
    jacobi.set_defaults(run=measure_jacobi)

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

    enlarging = benches.add_parser("enlarging", help="how much the upscaler slows an engine on the same cores")
    enlarging.add_argument("--model", default="tiny", help="shipped name or folder (default: tiny)")
    enlarging.add_argument(
        "--upscaler",
        type=Path,
        metavar="FILE",
        help="super-resolution model (default: Real-ESRGAN's small one, random)",
    )
    enlarging.add_argument("--side", type=int, default=1024, help="pixels a picture is enlarged to (default: 1024)")
    enlarging.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of an engine (default: 1 2)")
    enlarging.add_argument("--slots", type=int, default=16, help="guided images drawn at once (default: 16)")
    enlarging.add_argument("--seconds", type=float, default=20, help="seconds per time slice (default: 20)")
    enlarging.add_argument("--times", type=int, default=4, help="time slices of each kind (default: 4)")
    enlarging.set_defaults(run=measure_enlarging)

    paircomp = benches.add_parser("paircomp-run", help="time a run of paircomp relative to the engine alone")
    paircomp.add_argument("--model", default="tiny", help="shipped name or folder (default: tiny)")
    paircomp.add_argument(
        "--prompts", default="pairshapes-validation", help="cases of PairComp, shipped or a file (default: %(default)s)"
    )
    paircomp.add_argument(
        "--judges",
        nargs="+",
        default=["free", "exact"],
        choices=["free", "exact"],
        help="free costs nothing, exact reads prompts of the procedural world only (default: free exact)",
    )
    paircomp.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the engine (default: 1 2)")
    paircomp.add_argument("--slots", type=int, default=32, help="guided pictures drawn at once (default: 32)")
    paircomp.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    paircomp.set_defaults(run=measure_paircomp_run)

    startup = benches.add_parser("startup", help="time a server's start and first picture, and measure its memory")
    startup.add_argument("--model", default="tiny", help="shipped name or folder (default: tiny)")
    startup.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    startup.add_argument(
        "--fresh", action="store_true", help="also time `make serve` in a new clone (downloads all packages)"
    )
    startup.set_defaults(run=measure_startup)

    for bench in (speed, jacobi, training, load, triton, waiting, enlarging, paircomp, startup):
        add_history(bench)


def measure_speed(arguments: argparse.Namespace) -> None:
    """Print the speed tables."""
    from bench.speed.engine_report import report

    if arguments.model and arguments.geometry:
        raise ValueError("give either --model or --geometry")
    measurement = report(
        model=arguments.model,
        geometry=arguments.geometry,
        device=arguments.device,
        threads=arguments.threads,
        batches=sorted(set(arguments.images)),
        rounds=arguments.rounds,
        arrivals=arguments.arrivals,
        baselines_up_to=arguments.baselines_up_to,
        show=_show,
    )
    keep(measurement, arguments.history)


def measure_jacobi(arguments: argparse.Namespace) -> None:
    """Print the tables of Jacobi decoding."""
    from bench.speed.jacobi.report import report

    measurement = report(
        model=arguments.model,
        geometry=arguments.geometry,
        images=sorted(set(arguments.images)),
        threads=arguments.threads,
        rounds=arguments.rounds,
        cases=arguments.cases,
        seconds=arguments.seconds,
        plot=arguments.plot,
        show=_show,
    )
    keep(measurement, arguments.history)


def measure_training(arguments: argparse.Namespace) -> None:
    """Print the measurements of training."""
    from bench.speed.training_report import report

    measurement = report(
        model=arguments.model,
        recipe=arguments.recipe,
        device=arguments.device,
        threads=arguments.threads,
        steps=arguments.steps,
        rounds=arguments.rounds,
        show=_show,
    )
    keep(measurement, arguments.history)


def measure_load(arguments: argparse.Namespace) -> None:
    """Print the measurements of a server under load."""
    from bench.speed.load import report

    measurement = report(
        arguments.model,
        threads=arguments.threads,
        slots=arguments.slots,
        seconds=arguments.seconds,
        factors=arguments.factors,
        show=_show,
    )
    keep(measurement, arguments.history)


def measure_triton(arguments: argparse.Namespace) -> None:
    """Print throughput and latency of a server beside those of a front of Triton."""
    from bench.speed.triton import report

    measurement = report(
        arguments.model,
        threads=arguments.threads,
        slots=arguments.slots,
        seconds=arguments.seconds,
        times=arguments.times,
        show=_show,
    )
    keep(measurement, arguments.history)


def measure_waiting(arguments: argparse.Namespace) -> None:
    """Print the throughput of engines whose threads wait in different ways."""
    from bench.speed.waiting import report

    measurement = report(
        arguments.model,
        threads=arguments.threads,
        slots=arguments.slots,
        seconds=arguments.seconds,
        times=arguments.times,
        busy=arguments.busy,
        show=_show,
    )
    keep(measurement, arguments.history)


def measure_enlarging(arguments: argparse.Namespace) -> None:
    """Print the throughput of an engine while the upscaler enlarges pictures."""
    from bench.speed.enlarging import report

    measurement = report(
        arguments.model,
        network=arguments.upscaler,
        side=arguments.side,
        threads=arguments.threads,
        slots=arguments.slots,
        seconds=arguments.seconds,
        times=arguments.times,
        show=_show,
    )
    keep(measurement, arguments.history)


def measure_paircomp_run(arguments: argparse.Namespace) -> None:
    """Print the throughput of a run of paircomp relative to the engine alone."""
    let_threads_sleep()

    from bench.benchmarks.paircomp import prompts_file
    from bench.speed.paircomp_run import report

    measurement = report(
        arguments.model,
        prompts=prompts_file(arguments.prompts),
        judges=arguments.judges,
        threads=arguments.threads,
        slots=arguments.slots,
        rounds=arguments.rounds,
        show=_show,
    )
    keep(measurement, arguments.history)


def measure_startup(arguments: argparse.Namespace) -> None:
    """Print a server's start time and memory."""
    from bench.speed.startup import report

    measurement = report(arguments.model, threads=arguments.threads, fresh=arguments.fresh, show=_show)
    keep(measurement, arguments.history)
