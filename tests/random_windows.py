"""A chooser that gives images windows of random widths, other ones in each step."""

import random
from collections.abc import Sequence

from model.sampler.state import MOST_FED
from serve.engine.slot import Slot
from serve.engine.windows import Step, WindowChooser


class RandomWindows(WindowChooser):
    """`codes` and `steps` count what windows of several places added, by step and image."""

    def __init__(self, seed: int, *, widest: int = 9) -> None:
        super().__init__(1, lambda: 0.0)
        self._random, self._widest = random.Random(seed), widest
        self.codes = self.steps = 0

    @property
    def due(self) -> bool:
        return True

    def choose(self, slots: Sequence[Slot]) -> tuple[int, ...]:
        rows = sum(len(slot.rows) for slot in slots)
        widest = min(self._widest, MOST_FED // max(1, rows))
        return tuple(self._random.randint(1, max(1, widest)) for _ in slots)

    def note(self, step: Step) -> None:
        slots, windows, confirmed, fed, _ = step
        assert fed == sum(window * len(slot.rows) for slot, window in zip(slots, windows, strict=True))
        assert all(1 <= codes <= window for codes, window in zip(confirmed, windows, strict=True))
        self.codes += sum(codes for codes, window in zip(confirmed, windows, strict=True) if window > 1)
        self.steps += sum(window > 1 for window in windows)
