"""Pictures in bfloat16, whose products round otherwise where a step has another shape."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.speed.jacobi.recording import ForcedWidths, codes_of
from model.janus import Janus
from pairs.scores import Mean, mean
from serve.engine.engine import Engine
from serve.engine.job import Job

_WIDTHS = (2, 4, 8)
_TOGETHER = 8


class Divergence(NamedTuple):
    """Differences between pictures that are drawn in some way and those that are drawn alone, one place a step.

    way: in which they are drawn.
    same: share of pictures whose codes are all the same.
    prefix: share of a picture's codes before the first that differs.
    flips: share of codes that differ although all codes before are the same: first differences ÷ codes up to them.
    """

    way: str
    same: Mean
    prefix: Mean
    flips: float


def measure_divergence(janus: Janus, jobs: Sequence[Job]) -> Iterator[Divergence]:
    """Draw pictures with windows, and several together, in PyTorch's operations.

    Args:
        janus: in bfloat16.
        jobs: of a picture each.
    """
    expected = list(codes_of(Engine(janus, slots=1, native=False), jobs).values())
    for width in _WIDTHS:
        engine = Engine(janus, slots=1, native=False)
        engine._windows = ForcedWidths(width)
        yield compare(f"windows of {width} places", expected, list(codes_of(engine, jobs).values()))
    together = codes_of(Engine(janus, slots=_TOGETHER, native=False), jobs)
    yield compare(f"{_TOGETHER} pictures together", expected, [together[job, 0] for job in jobs])


def compare(way: str, expected: Sequence[tuple[int, ...]], found: Sequence[tuple[int, ...]]) -> Divergence:
    """Compare the codes of pictures, in order."""
    firsts = [
        next((place for place, (one, other) in enumerate(zip(*pair, strict=True)) if one != other), None)
        for pair in zip(expected, found, strict=True)
    ]
    tokens = len(expected[0])
    alike = [tokens if first is None else first for first in firsts]
    differ = sum(first is not None for first in firsts)
    same = mean([float(first is None) for first in firsts])
    return Divergence(way, same, mean([one / tokens for one in alike]), differ / (sum(alike) + differ))
