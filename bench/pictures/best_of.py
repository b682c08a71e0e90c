"""The best of several pictures: a generator that draws more than it is asked for, and a judge that chooses."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from bench.pictures.errors import GenerationError
from bench.pictures.generator import Drawings, Drawn, Generator
from bench.pictures.picture import Part, Picture
from pairs.judges.opening import OpenedJudge

SEED_STEP = 1_000_000  # between the seeds of a part's candidates; more than the pictures of any benchmark


class BestOf:
    """Draws n candidates of each part and keeps the one with the highest score.

    The first candidate has the part's own seed, so one candidate draws the same pictures as the generator alone.

    Args:
        generator: draws the candidates.
        selector: scores them. Reports of the same judge overstate the gain: it also rewards its own errors.
        count: n.
    """

    def __init__(self, generator: Generator, selector: OpenedJudge, count: int) -> None:
        self._generator, self._selector, self._count = generator, selector, count

    @property
    def settings(self) -> Mapping[str, Any]:
        """The generator's, the number of candidates, and what selects among them."""
        return {**self._generator.settings, "best of": self._count, "selected by": dict(self._selector.identity)}

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self._generator.provenance

    def draw(self, parts: Sequence[Part]) -> Drawings:
        """Draw each part (`bench.pictures.generator.Generator`).

        Raises:
            GenerationError: the selector cannot read a prompt (nothing is drawn), or has scored no candidate of a part.
        """
        for part in parts:
            if not self._selector.reads(part.prompt):
                raise GenerationError(
                    f"the {self._selector.name} judge cannot read {part.prompt!r}; name another with --selector"
                )
        candidates: dict[Part, Part] = {}
        for part in parts:
            seeds = tuple(part.seed + number * SEED_STEP for number in range(self._count))
            together = Picture(part.picture.file, part.prompt, seeds)
            candidates |= {Part(together, number): part for number in range(self._count)}
        found: dict[Part, list[Drawn]] = {}
        with closing(self._generator.draw(list(candidates))) as drawings:
            for drawn in drawings:
                part = candidates[drawn.part]
                own = found.setdefault(part, [])
                own.append(drawn)
                if len(own) == self._count:
                    best = self._best(found.pop(part))
                    yield replace(best, part=part, seed=best.part.seed)

    def _best(self, drawn: Sequence[Drawn]) -> Drawn:
        """The candidate with the highest score; of equal ones, that with the lowest seed."""
        judged = self._selector.judge([one.image for one in drawn], [one.part.prompt for one in drawn])
        scores = {
            one.part.number: judgement.score
            for one, judgement in zip(drawn, judged, strict=True)
            if judgement is not None
        }
        if not scores:
            raise GenerationError(
                f"{drawn[0].part.picture.file}: {self._selector.name} scored none of its {len(drawn)} candidates; "
                "run again to draw them anew"
            )
        return max(
            (one for one in drawn if one.part.number in scores),
            key=lambda one: (scores[one.part.number], -one.part.number),
        )
