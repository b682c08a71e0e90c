"""The change from one measurement to another."""

from collections.abc import Iterator

from bench.measurements.measurement import Measurement, Number


def changes(before: Measurement, after: Measurement) -> Iterator[str]:
    """Lines of a table: each number that both have, its change in percent, and whether that is better or worse.

    Where both have intervals, and these overlap, the change is "not resolved".
    """
    earlier = {number.name: number for number in before.numbers}
    common = [number for number in after.numbers if number.name in earlier]
    width = max((len(number.name) for number in common), default=0)
    commits = " → ".join(str(one.provenance.get("commit", "unknown")) for one in (before, after))
    yield f"change since {before.measured_at[:16].replace('T', ' ')} UTC, commit {commits}:"
    for new in common:
        old = earlier[new.name]
        percent = f"{new.value / old.value - 1:+8.1%}" if old.value else " " * 8
        yield f"{new.name:{width}}  {old.value:10.4g} → {new.value:10.4g} {new.unit:9} {percent}  {verdict(old, new)}"


def verdict(old: Number, new: Number) -> str:
    """Judge a change: "same", "not resolved", "better" or "worse"."""
    if new.value == old.value:
        return "same"
    if (
        old.low is not None
        and old.high is not None
        and new.low is not None
        and new.high is not None
        and old.low <= new.high
        and new.low <= old.high
    ):
        return "not resolved"
    return "better" if (new.value > old.value) == (new.better == "higher") else "worse"
