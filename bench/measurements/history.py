"""Measurements of the past, to compare new ones with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.measurements.measurement import Measurement

# of the provenance: measurements with equal ones come from the same kind of machine
_MACHINE = ("device", "processor", "cores", "threads", "dtype", "machine")


class History:
    """A folder with a JSON file for each measurement.

    Args:
        folder: made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, measurement: Measurement) -> Path:
        """Write a measurement; returns its file."""
        moment = measurement.measured_at.replace(":", "").replace("+0000", "Z")
        file = self._folder / f"{measurement.bench}-{moment}.json"
        measurement.write(file)
        return file

    def last_before(self, measurement: Measurement) -> Measurement | None:
        """The latest earlier measurement of the same bench with the same workload on the same kind of machine.

        Raises:
            ValueError: a file of the bench is no measurement; the message names it.
        """
        comparable = [
            other
            for other in map(Measurement.read, self._folder.glob(f"{measurement.bench}-*.json"))
            if other.measured_at < measurement.measured_at and _conditions(other) == _conditions(measurement)
        ]
        return max(comparable, key=lambda other: other.measured_at, default=None)


def _conditions(measurement: Measurement) -> tuple[str, Mapping[str, Any], list[Any]]:
    return (
        measurement.bench,
        measurement.workload,
        [measurement.provenance.get(name) for name in _MACHINE],
    )
