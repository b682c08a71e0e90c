"""A command that has ended."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str
