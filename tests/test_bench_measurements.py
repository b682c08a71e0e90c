"""Measurements: intervals and changes against values by hand, and the history of comparable ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.command import main
from bench.measurements.change import changes, verdict
from bench.measurements.history import History
from bench.measurements.measurement import Measurement, Number
from tests.ended import Ended

MACHINE = {
    "device": "cpu",
    "processor": "a",
    "cores": 2,
    "threads": 1,
    "dtype": "float32",
    "machine": "x",
    "commit": "c1",
}
RATE = Number("rate", 20.0, "images/s", "higher")
FIRST = Measurement("speed", {"model": "m"}, MACHINE, [RATE], "2026-01-01T10:00:00.000+00:00")


def test_the_interval_of_rounds_is_students() -> None:
    """Mean 2.5, standard error 0.6455, and a t of 3.1824 at three degrees of freedom."""
    number = Number.of_rounds("n", [1.0, 2.0, 3.0, 4.0], "s", "lower")
    assert (number.value, number.count) == (2.5, 4)
    assert [number.low, number.high] == pytest.approx([0.4457, 4.5543], abs=1e-4)
    alone = Number.of_rounds("n", [3.0], "s", "lower")
    assert (alone.value, alone.low, alone.high, alone.count) == (3.0, None, None, 1)


def test_a_file_holds_the_whole_measurement_and_no_number_that_is_not_finite(tmp_path: Path) -> None:
    nothing = Number("p50", float("nan"), "s", "lower")
    replace(FIRST, numbers=[RATE, nothing]).write(tmp_path / "new" / "one.json")
    assert Measurement.read(tmp_path / "new" / "one.json") == FIRST


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "focusdiff-numbers/1"}', "\u20ac\x00{"])
def test_a_file_that_is_no_measurement_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "one.json").write_text(content)
    with pytest.raises(ValueError, match=r"one\.json is no measurement"):
        Measurement.read(tmp_path / "one.json")


def test_a_file_of_another_schema_names_both(tmp_path: Path) -> None:
    FIRST.write(tmp_path / "one.json")
    content = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps(content | {"schema": "focusdiff-numbers/0"}))
    with pytest.raises(ValueError, match=r"'focusdiff-numbers/0'; this version reads 'focusdiff-numbers/1'"):
        Measurement.read(tmp_path / "one.json")


def test_only_the_same_workload_on_the_same_kind_of_machine_is_compared(tmp_path: Path) -> None:
    history = History(tmp_path)
    later = replace(FIRST, measured_at="2026-01-02T10:00:00.000+00:00", provenance=MACHINE | {"commit": "c2"})
    others = [
        replace(later, bench="load"),
        replace(later, workload={"model": "other"}),
        replace(later, provenance=MACHINE | {"processor": "b"}),
        replace(later, provenance=MACHINE | {"threads": 2}),
        replace(later, measured_at="2026-01-04T10:00:00.000+00:00"),  # the future
    ]
    now = replace(FIRST, measured_at="2026-01-03T10:00:00.000+00:00")
    for number, other in enumerate(others):
        other.write(tmp_path / f"{other.bench}-{number}.json")
    assert history.last_before(now) is None
    history.record(FIRST)
    assert history.last_before(now) == FIRST
    history.record(later)
    assert history.last_before(now) == later
    assert history.last_before(later) == FIRST
    assert len(list(tmp_path.iterdir())) == len(others) + 2


def test_changes_are_in_percent_with_their_direction() -> None:
    seconds = Number("start", 4.0, "s", "lower")
    gone = Number("gone", 1.0, "s", "lower")
    zero = Number("lost", 0.0, "requests", "lower")
    before = replace(FIRST, numbers=[RATE, seconds, gone, zero])
    after = replace(
        FIRST, provenance=MACHINE | {"commit": "c2"},
        numbers=[replace(RATE, value=25.0), replace(seconds, value=5.0), replace(zero, value=2.0)],
    )  # fmt: skip
    title, *lines = changes(before, after)
    assert title == "change since 2026-01-01 10:00 UTC, commit c1 → c2:"
    assert [line.split() for line in lines] == [
        ["rate", "20", "→", "25", "images/s", "+25.0%", "better"],
        ["start", "4", "→", "5", "s", "+25.0%", "worse"],
        ["lost", "0", "→", "2", "requests", "worse"],
    ]


def test_overlapping_intervals_do_not_resolve_a_change() -> None:
    old = Number("rate", 10.0, "images/s", "higher", 9.0, 11.0)
    assert verdict(old, replace(old, value=11.5, low=10.5, high=12.5)) == "not resolved"
    assert verdict(old, replace(old, value=12.5, low=11.5, high=13.5)) == "better"
    assert verdict(old, replace(old, value=8.0, low=7.0, high=8.9)) == "worse"
    assert verdict(old, old) == "same"
    assert verdict(replace(old, low=None, high=None), replace(old, value=10.1)) == "better"


def test_the_second_run_of_a_bench_prints_the_change(
    command: Callable[..., Ended], small_folder: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    arguments = ["speed", "--model", str(small_folder), "--threads", "1", "--images", "2", "--rounds", "1"]
    arguments += ["--arrivals", "0", "--baselines-up-to", "0", "--history", str(tmp_path)]
    first, second = (command(main, *arguments) for _ in range(2))
    torch.set_num_threads(threads)
    assert first.out.endswith("the first measurement of this workload on this kind of machine\n")
    files = sorted(tmp_path.iterdir())
    assert str(files[1]) in second.out
    old, new = map(Measurement.read, files)
    table = second.out.partition("change since")[2].splitlines()[1:]
    assert [line.partition("  ")[0] for line in table] == [number.name for number in new.numbers]
    assert f"{old.numbers[0].value:.4g} →" in table[0]
