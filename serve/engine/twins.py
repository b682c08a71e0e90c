"""Codes of finished pictures, from which those with the same seed take guesses."""

from collections import OrderedDict

_MOST = 64  # pictures


class Twins:
    """The latest picture of each seed. With the same noise, another prompt or guidance scale leaves many codes alike."""

    def __init__(self) -> None:
        self._codes: OrderedDict[int, tuple[int, ...]] = OrderedDict()

    def add(self, seed: int, codes: tuple[int, ...]) -> None:
        """Remember a finished picture, and forget the oldest if there are too many."""
        self._codes[seed] = codes
        self._codes.move_to_end(seed)
        if len(self._codes) > _MOST:
            self._codes.popitem(last=False)

    def codes(self, seed: int) -> tuple[int, ...] | None:
        """Codes of the latest picture with this seed."""
        return self._codes.get(seed)

    def clear(self) -> None:
        """Forget all, because the model has changed."""
        self._codes.clear()
