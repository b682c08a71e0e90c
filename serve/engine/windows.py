"""The number of places of each image that a step computes: as many as pay.

A step of more places takes longer, and adds codes only if guesses turn out right. Both are measured while drawing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from model.sampler.state import MOST_FED
from serve.engine.confirmation import WIDEST, Confirmation, reach
from serve.engine.slot import Slot
from serve.engine.step_costs import FIRST, StepCosts

_MARGIN = 0.05  # by which windows must be better than single places: estimates err
# of a step of several images that may have windows: below, choosing costs what windows gain
_LEAST_SECONDS = 0.002
_KEPT_STEPS = 16  # that a choice is kept
_MOST_KEPT_STEPS = 256  # while single places stay the choice, each is kept twice as long as the last
_MEASURED = 8  # of single places that stay the choice, one step in so many is measured
_RARELY_MEASURED = 32  # where steps are too short for windows: only to see when they no longer are
_CHOOSING_SECONDS = 0.0002  # a third of a small model's step
_PROBE_SHARE = 0.005  # of the time goes into steps of other widths, to measure what they take now
_PROBED = 2  # steps of a probe: the first does not count
_LEAST_LOST = 0.1  # by a step of a probe, of its time: what it loses is not known better
_TRIED = 1.3  # times the seconds a code of the best way: ways that are estimated worse are not tried to begin with
_MOST_CHOICES = 256  # that are remembered
_FEW = 4  # images: more of them are at all heights, so that the mean over these will do

_MORE = {width: reach(width + 1) - reach(width) for width in range(1, WIDEST)}


class Step(NamedTuple):
    """A step of a batch, after it.

    slots: the images.
    windows: places of each that were computed.
    confirmed: codes that each gained.
    fed: codes fed to the decoder.
    plain: whether it only drew codes, and nothing was computed beside it: no prompt, preview or picture.
    """

    slots: Sequence[Slot]
    windows: Sequence[int]
    confirmed: Sequence[int]
    fed: int
    plain: bool


class _Kind(NamedTuple):
    """Kind of an image.

    rows: of the KV cache: 1, or 2 if guided.
    has_twin: see `Slot`.
    height: part of the picture that it is at; 0 where many run.
    """

    rows: int
    has_twin: bool
    height: int


@dataclass
class _Choice:
    """Widths for images of given kinds, in the order of their kinds.

    steps: that are left until it is made again.
    measured: one in so many of them, since measuring takes a hundredth of a small model's step.
    patience: steps that a choice of single places is kept after this one.
    """

    widths: tuple[int, ...]
    steps: int = _KEPT_STEPS
    measured: int = 1
    patience: int = _KEPT_STEPS


class WindowChooser:
    """Chooses the widths of windows that add most codes a second.

    A window of w places is expected to add 1 + gain · reach(w) codes (`serve.engine.confirmation`). Places go to the image that
    gains most by one more; their number is the one with the most codes a second. Choices are remembered by the kinds of a
    batch's images: when many run, some begin or end every few steps, and choosing would take a good part of the time.

    Args:
        tokens: codes of an image.
        apart: seconds that the end of an image takes longer if no other ends in the same step, as measured of late. With windows
            images seldom end together.
    """

    def __init__(self, tokens: int, apart: Callable[[], float]) -> None:
        self._tokens = tokens
        self._apart = apart
        self.costs = StepCosts()
        self._confirmation = Confirmation(tokens)
        self._choices: dict[tuple[_Kind, ...], _Choice] = {}
        self._choice = _Choice(())
        self._settled = False  # whether a step was taken since the last choice
        self._codes = math.inf  # that an image may gain before it is at another height
        self._saved = 0.0  # share of a step's time that probing may take, saved so far

    @property
    def due(self) -> bool:
        """Whether the widths should be chosen again, though the batch is the same."""
        return self._choice.steps <= 0 or self._codes <= 0

    def choose(self, slots: Sequence[Slot]) -> tuple[int, ...]:
        """Widths for the next steps of a batch."""
        if not slots:
            return ()
        at, self._codes = [0] * len(slots), math.inf
        if len(slots) <= _FEW and not self._too_short(slots):
            at = [self._confirmation.height(slot.sampled) for slot in slots]
            self._codes = min(
                self._confirmation.codes_below(height) - slot.sampled for slot, height in zip(slots, at, strict=True)
            )
        kinds = [_Kind(len(slot.rows), slot.has_twin, height) for slot, height in zip(slots, at, strict=True)]
        if len(slots) == 1:
            return self._take((kinds[0],), slots)
        order = sorted(range(len(slots)), key=kinds.__getitem__)
        widths = self._take(tuple(kinds[number] for number in order), [slots[number] for number in order])
        return tuple(width for _, width in sorted(zip(order, widths, strict=True)))

    def _take(self, key: tuple[_Kind, ...], slots: Sequence[Slot]) -> tuple[int, ...]:
        """Widths for images in the order of their kinds."""
        choice = self._choices.get(key)
        if choice is None or choice.steps <= 0:
            if len(self._choices) >= _MOST_CHOICES:
                self._choices.clear()
            patience = _KEPT_STEPS if choice is None else choice.patience
            choice = self._choices[key] = self._chosen(slots, patience)
        self._choice, self._settled = choice, False
        return choice.widths

    def note(self, step: Step) -> int | None:
        """Note a step, for the choices after it. Returns the codes that it was fed if `costs` should be told what it took."""
        choice = self._choice
        choice.steps -= 1
        self._saved += _PROBE_SHARE
        if self._codes < math.inf:
            self._codes -= max(step.confirmed)
        # the first step after a choice is not typical: choosing belongs to it, and its batch prepares its memory
        timed = step.fed if self._settled and step.plain and not choice.steps % choice.measured else None
        self._settled = True
        if max(step.windows) > 1:
            for slot, window, added in zip(step.slots, step.windows, step.confirmed, strict=True):
                if window > 1:
                    height = self._confirmation.height(slot.sampled - added)
                    self._confirmation.add(slot, height, window, added - 1)
        return timed

    def _chosen(self, slots: Sequence[Slot], patience: int) -> _Choice:
        widths, rows = [1] * len(slots), [len(slot.rows) for slot in slots]
        plain = sum(rows)
        if plain + min(rows) > MOST_FED:
            return _kept(tuple(widths), patience)
        if not self.costs.known(plain):
            return _Choice(tuple(widths), FIRST + 1)
        if self._too_short(slots):
            return _Choice(tuple(widths), _MOST_KEPT_STEPS, _RARELY_MEASURED)
        gains = [self._confirmation.gain(slot, everywhere=len(slots) > _FEW) for slot in slots]
        ways, sizes, codes = [tuple(widths)], [plain], [float(len(slots))]
        while True:
            fits = [i for i, own in enumerate(rows) if widths[i] < WIDEST and sizes[-1] + own <= MOST_FED]
            if not fits:
                break
            terms = {i: min(1.0, gains[i] * _MORE[widths[i]]) for i in fits}
            best = max(fits, key=lambda i: terms[i] / rows[i])
            widths[best] += 1
            ways.append(tuple(widths))
            sizes.append(sizes[-1] + rows[best])
            codes.append(codes[-1] + terms[best])
        seconds = self.costs.line(sizes)
        if (way := self._unknown(sizes, [one / own for one, own in zip(seconds, codes, strict=True)])) is not None:
            return _Choice(ways[way], _PROBED, patience=patience)
        margin = _MARGIN
        if len(slots) > 1:
            margin += len(slots) * self._apart() / (self._tokens * seconds[0])
        rank = sorted(range(len(ways)), key=lambda way: seconds[way] / codes[way] * (1 + margin * (way > 0)))
        best = rank[0]
        choosing = 2 * _CHOOSING_SECONDS / seconds[best]  # the probe, and what is best after it
        if self._saved < _PROBED * _LEAST_LOST + choosing:
            return _kept(ways[best], patience)
        least = self.costs.least(sizes)
        other = min(rank[1:], key=lambda way: least[way] / codes[way])
        lost = max(_LEAST_LOST, seconds[other] / seconds[best] * codes[best] / codes[other] - 1)
        if self._saved < _PROBED * lost + choosing:
            return _kept(ways[best], patience)
        self._saved = 0.0
        return _Choice(ways[other], _PROBED, patience=patience)

    def _too_short(self, slots: Sequence[Slot]) -> bool:
        """Whether steps of single places are so short that several images have no windows."""
        plain = sum(len(slot.rows) for slot in slots)
        return len(slots) > 1 and self.costs.known(plain) and self.costs.line([plain])[0] < _LEAST_SECONDS

    def _unknown(self, sizes: Sequence[int], rates: Sequence[float]) -> int | None:
        """The narrowest way of which nothing near is known, and that may be nearly as good as the best.

        What steps of other sizes take is mostly learned here, from the first ones of an engine: narrow windows first, and wider
        ones as long as these are not much worse. Such steps draw codes, too, so that they cost little.

        Args:
            sizes: codes that each way is fed, ascending.
            rates: seconds a code of each, as estimated.
        """
        worst = _TRIED * min(rates)
        return next((way for way, size in enumerate(sizes) if self.costs.is_far(size) and rates[way] < worst), None)


def _kept(widths: tuple[int, ...], patience: int) -> _Choice:
    """Choice of these widths; single places are kept longer each time."""
    if max(widths) > 1:
        return _Choice(widths)
    return _Choice(widths, patience, _MEASURED, min(2 * patience, _MOST_KEPT_STEPS))
