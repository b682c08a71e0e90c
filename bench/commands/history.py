"""The history of measurements, as benches write it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.measurements.measurement import Measurement


def add_history(parser: argparse.ArgumentParser) -> None:
    """Add the argument --history."""
    parser.add_argument(
        "--history",
        type=Path,
        default=Path("run/measurements"),
        help="folder of all measurements; the change since the last one is printed (default: run/measurements)",
    )


def keep(measurement: "Measurement", folder: Path) -> None:
    """Record a measurement in a history, and print the change since the last one on the same kind of machine."""
    from bench.measurements.change import changes
    from bench.measurements.history import History

    history = History(folder)
    print(f"\n{history.record(measurement)}")
    before = history.last_before(measurement)
    if before is None:
        print("the first measurement of this workload on this kind of machine")
        return
    for line in changes(before, measurement):
        print(line)
