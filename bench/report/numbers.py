"""Numbers of a run, in the schema that all benches share."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.judging.judgements import slug
from bench.measurements.measurement import Measurement, Number
from bench.pictures.run_folder import read_manifest

FOLDER = "numbers"  # in the folder of a run, one file for each scorer


def write_scorer(folder: Path, scorer: str, numbers: Sequence[Number]) -> None:
    """Write the numbers of one scorer of a run.

    Args:
        folder: of the run.
        scorer: name of the judge, or of what scored the pictures.
        numbers: its results.
    """
    manifest = read_manifest(folder)
    settings = manifest["settings"]
    measurement = Measurement(
        settings["benchmark"]["name"], {**settings, "scorer": scorer}, {"history": manifest["history"]}, numbers
    )
    measurement.write(folder / FOLDER / f"{slug(scorer)}.json")


def lines(numbers: Sequence[Number]) -> Iterator[str]:
    """A table of numbers."""
    width = max(len(number.name) for number in numbers) + 2
    for number in numbers:
        interval = "" if number.low is None else f"  {number.low:.4f} to {number.high:.4f}"
        count = "" if number.count is None else f"  of {number.count}"
        yield f"{number.name:{width}s}{number.value:.4f}{interval}{count}"
