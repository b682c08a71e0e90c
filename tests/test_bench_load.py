"""The load test against a real server: every arrival is answered and counted once."""

from pathlib import Path

import pytest

from bench.speed.clients import Answer
from bench.speed.load import Round, report


@pytest.mark.long
def test_a_short_load_accounts_for_every_arrival(small_folder: Path) -> None:
    lines: list[str] = []
    factors = [0.5, 3]
    found = report(str(small_folder), threads=1, slots=2, seconds=2, factors=factors, times=1, show=lines.append)
    numbers = {number.name: number.value for number in found.numbers}
    share = numbers["capacity over HTTP"] / numbers["engine alone"]
    assert numbers["capacity over HTTP ÷ engine alone"] == pytest.approx(share)
    assert numbers["capacity over HTTP"] > 0
    for factor in factors:
        assert numbers[f"load {factor:g}: lost"] == 0
        assert 0 <= numbers[f"load {factor:g}: refused"] < 1
        latency = [numbers[f"load {factor:g}: picture {name}"] for name in ("p50", "p95", "p99")]
        assert latency == sorted(latency)
    half, triple = (line.split() for line in lines[-2:])
    assert 0 < int(half[2]) < int(triple[2])
    assert len(lines) == 5


def test_counts_rate_and_percentiles_of_a_round() -> None:
    answers = (
        [Answer(200, None, float(i)) for i in range(1, 102)] + [Answer(429, None, 0.1)] * 9 + [Answer(0, None, 5.0)]
    )
    one = Round(1.0, 2.0, seconds=50.5, answers=answers)
    assert (one.count(200), one.count(429), one.count(0)) == (101, 9, 1)
    assert one.drawn_per_second == 2.0
    assert one.lost == 1
    assert one.latencies == [51.0, 96.0, 100.0]
    numbers = {number.name: number for number in one.numbers}
    assert numbers["load 1: refused"].value == pytest.approx(9 / 111)
    assert (numbers["load 1: picture p95"].value, numbers["load 1: picture p95"].better) == (96.0, "lower")


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"slots": 0}, {"seconds": 0}, {"factors": [0.0]}])
def test_settings_that_are_not_positive_are_refused(wrong: dict[str, object]) -> None:
    settings: dict[str, object] = {"threads": 1, "slots": 1, "seconds": 1.0, "factors": [1.0]} | wrong
    with pytest.raises(ValueError, match=f"--{next(iter(wrong))} must be above 0"):
        report("tiny", show=print, **settings)  # type: ignore[arg-type]
