"""Votes: kept, counted, exported."""

import csv
import io
import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from ui.votes import Choice, Vote, Votes, wilson


def vote(first: str, second: str, choice: Choice) -> Vote:
    return Vote(first, second, choice, first, 'first="a"', "2026-01-01T00:00:00Z")


def test_votes_are_stored_in_the_file_and_exported_unchanged(tmp_path: Path) -> None:
    given = [vote("a", "b", "first"), vote("b", "a", "tie"), vote("a", 'c "x", ü', "second")]
    for one in given:
        Votes(tmp_path / "new" / "votes.sqlite").add(one)
    votes = Votes(tmp_path / "new" / "votes.sqlite")
    assert votes.all() == given
    assert [Vote(**row) for row in csv.DictReader(io.StringIO(votes.as_csv()))] == given  # type: ignore[arg-type]
    assert [Vote(**json.loads(line)) for line in votes.as_jsonl().splitlines()] == given


def test_win_rates_do_not_depend_on_the_order_of_the_models(tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes.sqlite")
    for one in (vote("a", "b", "first"), vote("b", "a", "second"), vote("b", "a", "first"), vote("a", "b", "tie")):
        votes.add(one)
    (rate,) = votes.win_rates()
    assert (rate.first, rate.second, rate.votes) == ("a", "b", 4)
    assert rate.rate == 2.5 / 4


@pytest.mark.parametrize(("wins", "count"), [(0, 5), (3, 7), (50, 50), (120, 200)])
def test_intervals_equal_scipys_wilson_intervals(wins: int, count: int) -> None:
    expected = binomtest(wins, count).proportion_ci(0.95, method="wilson")
    assert wilson(wins, count) == pytest.approx((wins / count, expected.low, expected.high), abs=1e-6)


def test_a_file_that_is_not_a_database_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    path.write_text("something else entirely, and long enough to be looked at")
    with pytest.raises(ValueError, match=r"votes\.sqlite: votes cannot be kept there"):
        Votes(path)
