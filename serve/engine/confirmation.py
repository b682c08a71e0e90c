"""Measurement of the codes that windows add."""

from serve.engine.slot import Slot

WIDEST = 12  # places; wider windows add next to nothing, even where a finished twin gives the guesses
HEIGHTS = 8  # parts of a picture, from top to bottom
_POWER = 0.65  # see `reach`
_DECAY = 0.99  # per window, of what was counted before at its height
_FIRST_GAINS = {False: 0.4, True: 0.56}  # without and with a finished twin
_FIRST_REACHED = 20.0  # that first gains count for
_AT_HEIGHT = 20.0  # reach that the gain of the whole picture counts for at each height
_OF_IMAGE = {False: 40.0, True: 8.0}  # codes that the gain of a kind counts for, beside the image's own


def reach(width: int) -> float:
    """Codes that a window is expected to add beyond the first, up to a factor, by its width in places.

    Fitted to the shipped models (docs/performance.md). Wide windows add more than the chance of each single guess would
    give: what they draw behind their confirmed codes are better guesses than the code above.
    """
    return float((width - 1) ** _POWER)


class _Kind:
    """Codes that windows of a kind of images added beyond the first ones, and their reach, by height; the sums fade."""

    def __init__(self, gain: float) -> None:
        self._added, self._reached = [0.0] * HEIGHTS, [0.0] * HEIGHTS
        self._first = gain

    @property
    def gain(self) -> float:
        """Mean gain over the heights, weighted by reach."""
        return (_FIRST_REACHED * self._first + sum(self._added)) / (_FIRST_REACHED + sum(self._reached))

    def gain_at(self, height: int) -> float:
        return (_AT_HEIGHT * self.gain + self._added[height]) / (_AT_HEIGHT + self._reached[height])

    def add(self, height: int, added: int, reached: float) -> None:
        self._added[height] = _DECAY * self._added[height] + added
        self._reached[height] = _DECAY * self._reached[height] + reached


class Confirmation:
    """Codes that windows add beyond the first, relative to `reach`.

    At a picture's top there is little to guess from, so the gain depends on the height. An image's own windows count relative
    to what is expected of its kind.

    Args:
        tokens: codes of an image.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._kinds = {has_twin: _Kind(gain) for has_twin, gain in _FIRST_GAINS.items()}

    def height(self, sampled: int) -> int:
        """Part of the picture that an image with so many codes is at."""
        return min(sampled * HEIGHTS // self._tokens, HEIGHTS - 1)

    def codes_below(self, height: int) -> int:
        """Codes of an image that is no longer at a height; those of a complete one at the last."""
        return -(-(height + 1) * self._tokens // HEIGHTS)

    def gain(self, slot: Slot, *, everywhere: bool) -> float:
        """Gain that is expected of an image's next windows, or of those of its whole picture (`everywhere`)."""
        kind, weight = self._kinds[slot.has_twin], _OF_IMAGE[slot.has_twin]
        own = (weight + slot.added) / (weight + slot.expected)
        return own * (kind.gain if everywhere else kind.gain_at(self.height(slot.sampled)))

    def add(self, slot: Slot, height: int, width: int, added: int) -> None:
        """Note what an image's window added beyond the first code."""
        reached, kind = reach(width), self._kinds[slot.has_twin]
        slot.added += added
        slot.expected += kind.gain_at(height) * reached
        kind.add(height, added, reached)
