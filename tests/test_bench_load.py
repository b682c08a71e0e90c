"""The load test against a real server: every arrival is answered and counted once."""

import json
from pathlib import Path

import pytest

from bench.speed.clients import Answer
from bench.speed.load import Round, report


@pytest.mark.long
def test_a_short_load_accounts_for_every_arrival(small_folder: Path) -> None:
    *lines, last = report(str(small_folder), threads=1, slots=2, seconds=2, factors=[0.5, 3], times=1)
    result = json.loads(last)
    (capacity,), (alone,) = result["capacity"], result["engine_alone"]
    assert result["share"] == pytest.approx(capacity / alone)
    assert capacity > 0
    for one in result["rounds"]:
        assert sum(one["answered"].values()) == one["arrived"] > 0
        assert set(one["answered"]) <= {"200", "429"}
        assert one["latency"] == sorted(one["latency"])
    half, triple = result["rounds"]
    assert triple["arrived"] > half["arrived"]
    assert len(lines) == 5


def test_counts_rate_and_percentiles_of_a_round() -> None:
    answers = (
        [Answer(200, None, float(i)) for i in range(1, 102)] + [Answer(429, None, 0.1)] * 9 + [Answer(0, None, 5.0)]
    )
    one = Round(1.0, 2.0, seconds=50.5, answers=answers)
    assert (one.count(200), one.count(429), one.count(0)) == (101, 9, 1)
    assert one.drawn_per_second == 2.0
    assert one.percentiles([answer.latency for answer in answers if answer.status == 200]) == [51.0, 96.0, 100.0]


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"slots": 0}, {"seconds": 0}, {"factors": [0.0]}])
def test_settings_that_are_not_positive_are_refused(wrong: dict[str, object]) -> None:
    settings: dict[str, object] = {"threads": 1, "slots": 1, "seconds": 1.0, "factors": [1.0]} | wrong
    with pytest.raises(ValueError, match=f"--{next(iter(wrong))} must be above 0"):
        next(report("tiny", **settings))  # type: ignore[arg-type]
