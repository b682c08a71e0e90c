"""Whether a picture shows what its prompt asks for, from the objects detected in it. Imports no torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.detection.metadata import Excluded, Included, Metadata, Tag
from bench.detection.names import OBJECT_NAMES
from bench.detection.objects import DetectedObject, overlap, relations

Kept = Mapping[str, Sequence[DetectedObject]]  # by name, most confident first; no empty entry
ColoursOf = Callable[[str, Sequence[DetectedObject]], Sequence[str]]  # name and objects of that name → their colours


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of objects and positions; the defaults are the official ones.

    Args:
        confidence: scores must exceed it.
        counting: the same, for prompts tagged "counting".
        max_objects: most objects of a class; the least confident others are dropped.
        max_overlap: intersection over union; from there on, the less confident of two boxes of a class is dropped.
            1 keeps all, even equal boxes.
        position: margin of `bench.detection.objects.relations`.
    """

    confidence: float = 0.3
    counting: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position: float = 0.1

    def __post_init__(self) -> None:
        for name in ("confidence", "counting", "max_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be from 0 to 1, got {getattr(self, name)}")
        if self.max_objects < 1:
            raise ValueError(f"max_objects: must be at least 1, got {self.max_objects}")
        if not self.position >= 0:
            raise ValueError(f"position: must be at least 0, got {self.position}")

    def least(self, tag: Tag) -> float:
        """Score that objects of a prompt must exceed."""
        return self.counting if tag == "counting" else self.confidence


OFFICIAL = Thresholds()


@dataclass(frozen=True)
class Verdict:
    """Whether a picture is correct; `reason` has a line for each condition that it does not meet."""

    correct: bool
    reason: str


def keep(objects: Sequence[DetectedObject], tag: Tag, thresholds: Thresholds) -> dict[str, list[DetectedObject]]:
    """Objects that count for a prompt, by name in COCO's order, most confident first."""
    least = np.float32(thresholds.least(tag))  # scores are float32: one of exactly 0.3 must not exceed 0.3
    kept: dict[str, list[DetectedObject]] = {}
    for name in OBJECT_NAMES:
        # of equal scores, the later detection comes first: the official order is an ascending sort, reversed
        found = [one for one in reversed(objects) if one.name == name and np.float32(one.score) > least]
        found.sort(key=lambda one: -one.score)
        for one in found[: thresholds.max_objects]:  # the limit comes before overlaps are dropped
            chosen = kept.setdefault(name, [])
            if thresholds.max_overlap == 1 or all(
                overlap(other.box, one.box) < thresholds.max_overlap for other in chosen
            ):
                chosen.append(one)
    return kept


def judge(metadata: Metadata, kept: Kept, colours_of: ColoursOf, thresholds: Thresholds) -> Verdict:
    """Judge the objects that count, as `keep` chooses them, against a prompt.

    Args:
        metadata: of the prompt.
        kept: objects that count.
        colours_of: asked for the most confident objects of a clause with a colour, if there are enough of them.
        thresholds: its margin of positions.
    """
    reasons: list[str] = []
    groups: list[Sequence[DetectedObject] | None] = []  # objects of each clause; None if it is not met
    for clause in metadata.include:
        found = kept.get(clause.name, ())[: clause.count]
        fault = _count_fault(clause, found) or _colour_fault(clause, found, colours_of)
        if fault is None and clause.position is not None:
            target = clause.position[1]
            fault = _position_fault(
                clause, metadata.include[target].name, found, groups[target], margin=thresholds.position
            )
        groups.append(found if fault is None else None)
        reasons.extend([] if fault is None else [fault])
    reasons.extend(_faults_of_excluded(metadata.exclude, kept))
    return Verdict(not reasons, "\n".join(reasons))


def _count_fault(clause: Included, found: Sequence[DetectedObject]) -> str | None:
    if len(found) == clause.count:
        return None
    return f"expected at least {clause.count} {clause.name}, found {len(found)}"


def _colour_fault(clause: Included, found: Sequence[DetectedObject], colours_of: ColoursOf) -> str | None:
    """Fault unless all are of the colour. A less confident object does not count, even if its colour is right."""
    if clause.colour is None:
        return None
    colours = colours_of(clause.name, found)
    if all(colour == clause.colour for colour in colours):
        return None
    return f"expected {clause.count} {clause.colour} {clause.name}, found {', '.join(colours)}"


def _position_fault(
    clause: Included,
    target_name: str,
    found: Sequence[DetectedObject],
    targets: Sequence[DetectedObject] | None,
    *,
    margin: float,
) -> str | None:
    """Fault unless every object lies so from every target."""
    assert clause.position is not None
    expected = clause.position[0]
    if targets is None:  # missing, or of another colour or at another place than asked for
        return f"expected {clause.name} {expected} {target_name}, found no such {target_name}"
    for one in found:
        for target in targets:
            there = relations(one.box, target.box, margin=margin)
            if expected not in there:
                return f"expected {clause.name} {expected} {target_name}, found {' and '.join(there) or 'neither side'}"
    return None


def _faults_of_excluded(clauses: Iterable[Excluded], kept: Kept) -> list[str]:
    counts = [(clause, len(kept.get(clause.name, ()))) for clause in clauses]
    return [
        f"expected fewer than {clause.count} {clause.name}, found {count}"
        for clause, count in counts
        if count >= clause.count
    ]
