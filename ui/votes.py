"""Blind votes between two models, kept in SQLite."""

import csv
import io
import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

Choice = Literal["first", "second", "tie"]
_Z = 1.959964  # standard normal quantile for a 95 % interval


@dataclass(frozen=True)
class Vote:
    """A blind vote on which of two models followed the prompts better.

    `shown_first` is the model shown above; `query` reproduces the pictures (`ui.settings.Comparison`).
    """

    first: str
    second: str
    choice: Choice
    shown_first: str
    query: str
    time: str  # UTC, ISO 8601


@dataclass(frozen=True)
class WinRate:
    """Share of votes for the first model of a pair, ties counting half, and its 95 % interval (Wilson 1927)."""

    first: str
    second: str
    votes: int
    rate: float
    low: float
    high: float


class Votes:
    """SQLite file of votes; every call opens it anew, so threads and processes may share it.

    Raises:
        ValueError: the file cannot be opened, or is not a database; the message names it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        names = ", ".join(f"{field.name} TEXT NOT NULL" for field in fields(Vote))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as connection:
                connection.execute(f"CREATE TABLE IF NOT EXISTS votes ({names})")
        except (sqlite3.Error, OSError) as error:
            raise ValueError(f"{path}: votes cannot be kept there ({error})") from None

    def add(self, vote: Vote) -> None:
        """Store a vote; it is on disk when this returns."""
        places = ", ".join("?" for _ in fields(Vote))
        with self._open() as connection:
            connection.execute(f"INSERT INTO votes VALUES ({places})", tuple(asdict(vote).values()))

    def all(self) -> list[Vote]:
        """All votes, oldest first."""
        with self._open() as connection:
            return [Vote(*row) for row in connection.execute("SELECT * FROM votes ORDER BY rowid")]

    def win_rates(self) -> list[WinRate]:
        """One entry per pair of models, sorted by name."""
        tallies: dict[tuple[str, str], list[float]] = {}
        for vote in self.all():
            a, b = sorted((vote.first, vote.second))
            won = {"tie": 0.5, "first": float(vote.first == a), "second": float(vote.second == a)}[vote.choice]
            tallies.setdefault((a, b), []).append(won)
        return [WinRate(a, b, len(won), *wilson(sum(won), len(won))) for (a, b), won in sorted(tallies.items())]

    def as_csv(self) -> str:
        """All votes as CSV with a header line."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Vote)])
        writer.writeheader()
        writer.writerows(asdict(vote) for vote in self.all())
        return text.getvalue()

    def as_jsonl(self) -> str:
        """All votes as JSON, one object per line."""
        return "".join(json.dumps(asdict(vote), ensure_ascii=False) + "\n" for vote in self.all())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=10)
        try:
            with connection:
                yield connection
        finally:
            connection.close()


def wilson(wins: float, votes: int) -> tuple[float, float, float]:
    """Share of wins, and lower and upper bound of its 95 % interval (Wilson 1927)."""
    share = wins / votes
    centre = (share + _Z**2 / (2 * votes)) / (1 + _Z**2 / votes)
    half = _Z / (1 + _Z**2 / votes) * math.sqrt(share * (1 - share) / votes + _Z**2 / (4 * votes**2))
    return share, max(0.0, centre - half), min(1.0, centre + half)
