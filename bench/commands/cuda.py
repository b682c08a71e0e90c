"""The bench of a GPU."""

import argparse
from functools import partial
from pathlib import Path

from bench.commands.benches import Benches

_show = partial(print, flush=True)


def add_cuda(benches: Benches) -> None:
    """Add the bench's parser."""
    from bench.cuda.parts import PARTS

    cuda = benches.add_parser("cuda", help="time every part of a GPU's steps against what the card could do")
    cuda.add_argument("--geometry", default="janus-pro-7b", help="of random weights (default: janus-pro-7b)")
    cuda.add_argument(
        "--images",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8, 16, 32, 64],
        help="guided images drawn at once (default: 1 2 4 8 16 32 64)",
    )
    cuda.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="(default: all)")
    cuda.add_argument("--out", type=Path, default=Path("run/cuda.jsonl"), help="file that gains the results")
    cuda.add_argument("--plot", type=Path, help="file for the results beside the card's roofline (PNG)")
    cuda.add_argument("--dry", action="store_true", help="everything small, in Triton's interpreter: is all there?")
    cuda.set_defaults(run=measure_cuda)


def measure_cuda(arguments: argparse.Namespace) -> None:
    """Print the table, and keep the results."""
    import json

    from bench.cuda.micro import TOKENS
    from bench.cuda.parts import Failure, run_parts
    from bench.cuda.result import Result
    from bench.cuda.table import Table, ratios
    from bench.speed.geometry import geometry_config
    from model.device import choose_device
    from train.provenance import provenance

    if min(arguments.images) < 1:
        raise ValueError(f"--images must be at least 1, not {min(arguments.images)}")
    geometry_config(arguments.geometry)  # a misspelt name is told before any part is begun
    device, dtype = ("cpu", "float32") if arguments.dry else ("cuda", "bfloat16")
    where = provenance(device=choose_device(device), dtype=dtype)
    images = sorted(set(arguments.images))[: 1 if arguments.dry else None]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    _show(", ".join(f"{name} {value}" for name, value in where.items()))
    with open(arguments.out, "a", encoding="utf-8") as file:
        print(json.dumps({"provenance": where, "geometry": arguments.geometry, "dry": arguments.dry}), file=file)
    table, found = Table(TOKENS if arguments.dry else 576), list[Result | Failure]()
    for one in run_parts(
        arguments.parts, geometry=arguments.geometry, images=images, dry=arguments.dry, out=arguments.out
    ):
        found.append(one)
        for line in table.lines(one):
            _show(line)
    for line in ratios(found):
        _show(line)
    if arguments.plot is not None:
        from bench.cuda.plot import plot_roofline

        plot_roofline([one for one in found if isinstance(one, Result)], table, arguments.plot)
    if failed := [one.part for one in found if isinstance(one, Failure)]:
        raise SystemExit(f"failed: {', '.join(failed)}")
