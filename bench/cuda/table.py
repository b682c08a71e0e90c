"""A table of results, beside the least time that the card allows."""

from collections.abc import Iterator, Sequence

from bench.cuda.parts import Failure
from bench.cuda.result import Result

_HEADING = "                                        ms   floor ms        ×   host ms   images/s   peak GiB"


class Table:
    """Lines of results as they come; floors are known once the card has been measured.

    The floor of a result is the longer of two times: to read and write its bytes at the rate at which the card read memory,
    and to compute its operations at the rate of its matrix products.

    Args:
        image_tokens: codes of a picture.

    Attributes:
        bytes_a_second, flops_a_second: these rates; 0 until they are known.
    """

    def __init__(self, image_tokens: int) -> None:
        self._tokens = image_tokens
        self.bytes_a_second = self.flops_a_second = 0.0
        self._part = ""

    def lines(self, one: Result | Failure) -> Iterator[str]:
        """Lines of a result, with a heading before the first of a part."""
        if one.part != self._part:
            self._part = one.part
            yield f"\n{one.part:34}{_HEADING[34:]}"
        if isinstance(one, Failure):
            yield f"  failed: {one.reason}"
            return
        if one.part == "card":
            yield self._card_line(one)
            return
        floor = self.floor(one)
        against = f"{1e3 * floor:11.3f}{one.seconds / floor:8.2f}×" if floor else " " * 20
        host = f"{1e3 * one.host:10.3f}" if one.host is not None else " " * 10
        rate = f"{self.images_a_second(one):11.3f}" if one.images else " " * 11
        peak = f"{one.peak / 2**30:11.1f}" if one.peak is not None else ""
        yield f"  {one.name:32}{1e3 * one.seconds:10.3f}{against}{host}{rate}{peak}"

    def floor(self, one: Result) -> float:
        """Least seconds of a result; 0 if it has none, or the card is unknown."""
        if not self.bytes_a_second or not self.flops_a_second:
            return 0.0
        return max(one.bytes / self.bytes_a_second, one.flops / self.flops_a_second)

    def images_a_second(self, one: Result) -> float:
        return one.images / (one.seconds * (1 if one.whole else self._tokens))

    def _card_line(self, one: Result) -> str:
        if one.flops:
            self.flops_a_second = max(self.flops_a_second, one.flops / one.seconds)
            return f"  {one.name:32}{one.flops / one.seconds / 1e12:10.1f} TFLOP/s"
        self.bytes_a_second = max(self.bytes_a_second, one.bytes / one.seconds)
        return f"  {one.name:32}{one.bytes / one.seconds / 1e9:10.1f} GB/s"


def ratios(results: Sequence[Result | Failure]) -> Iterator[str]:
    """Lines of what the engine gains against the other loops, for as many images."""
    whole = {one.name: one for one in results if isinstance(one, Result) and one.whole}
    for name, other in whole.items():
        ours = whole.get(f"{other.images} images together")
        if ours is not None and ours is not other:
            yield f"  {name} ÷ engine: {other.seconds / ours.seconds:.2f}×"
