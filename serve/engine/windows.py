"""The number of places of each image that a step computes: as many as pay.

A step of more places takes longer, and adds codes only if guesses turn out right. Both are measured while drawing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from model.sampler.state import MOST_FED
from serve.engine.slot import Slot

_WIDEST = 12  # places; wider windows add next to nothing, even where a finished twin gives the guesses
_POWER = 0.65  # see `reach`
_MARGIN = 0.1  # by which windows must be better than single places: estimates err
# of a step of several images that may have windows: below, choosing costs what windows gain
_LEAST_SECONDS = 0.002
# of the time that pixels take: by so much it grows when images end in different steps and are decoded one by one
_APART = 0.3
_KEPT_STEPS = 16  # that a choice is kept: choosing takes a tenth of a small model's step
_MOST_KEPT_STEPS = 128  # while single places stay the choice, each is kept twice as long as the last
_PROBE_SHARE = 0.005  # of the time goes into steps of other widths, to measure what they take now
_PROBED = 2  # steps of a probe: the first does not count
_FIRST = 4  # measurements of a size, of which the fastest counts
_WEIGHT = 0.1  # of each later measurement
_PROBE_WEIGHT = 0.4  # of one that was made to learn what steps of this size take now
_DECAY = 0.99  # per step, of what was counted before
_NEAR = 1.2  # sizes whose ratio is smaller take about the same
_TRIED = 1.3  # times the seconds a code of the best way: ways that are estimated worse are not tried to begin with
_MOST_CHOICES = 256  # that are remembered
_PRIOR = 10  # reach of an image's kind that counts beside the image's own


def reach(width: int) -> float:
    """Codes that a window is expected to add beyond the first, up to a factor, by its width in places.

    Fitted to the shipped models (docs/performance.md). Wide windows add more than the chance of each single guess would
    give: what they draw behind their confirmed codes are better guesses than the code above.
    """
    return float((width - 1) ** _POWER)


_MORE = {width: reach(width + 1) - reach(width) for width in range(1, _WIDEST)}


class Confirmation:
    """Codes that windows added beyond the first, relative to `reach`; the sums fade."""

    def __init__(self, gain: float) -> None:
        self._reached = 20.0
        self._added = gain * self._reached

    @property
    def gain(self) -> float:
        return self._added / self._reached

    def add(self, added: float, reached: float) -> None:
        """Note windows that together added so many codes beyond the first ones."""
        self._added = _DECAY * self._added + added
        self._reached = _DECAY * self._reached + reached


class Step(NamedTuple):
    """A step of a batch, after it.

    slots: the images.
    windows: places of each that were computed.
    confirmed: codes that each gained.
    fed: codes fed to the decoder.
    plain: whether it only drew codes: no preview was made, and no image ended.
    """

    slots: Sequence[Slot]
    windows: Sequence[int]
    confirmed: Sequence[int]
    fed: int
    plain: bool


class StepSize(NamedTuple):
    """Size of a step whose time is wanted.

    fed: codes fed to the decoder.
    probed: whether the step is one of few of its size, and so counts more.
    """

    fed: int
    probed: bool


class StepCosts:
    """Seconds of a step by the number of codes that it is fed, as measured of late."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def add(self, size: StepSize, seconds: float) -> None:
        """Note what a step took, the engine's own time included.

        One in which the machine stood still counts as one that took twice as long as usual.
        """
        fed, probed = size
        if seconds <= 0:  # by a clock that stands still
            return
        usual = self._seconds.get(fed, seconds)
        count = self._counts[fed] = self._counts.get(fed, 0) + 1
        self._seconds[fed] = (
            min(usual, seconds)
            if count <= _FIRST
            else usual + (_PROBE_WEIGHT if probed else _WEIGHT) * (min(seconds, 2 * usual) - usual)
        )

    def known(self, fed: int) -> bool:
        """Whether enough steps of this size were measured."""
        return self._counts.get(fed, 0) >= _FIRST

    def is_far(self, fed: int) -> bool:
        """Whether nothing is known of steps of about this size: the nearest smaller one that was measured is a fifth smaller at
        least, and the nearest larger one a fifth larger."""
        return not any(fed / _NEAR < one < fed * _NEAR for one in self._seconds)

    def line(self, sizes: Sequence[int]) -> list[float]:
        """Seconds of steps of ascending sizes: measured, or on the line through the two nearest that were.

        With one measured size, others are taken to cost the same.
        """
        known = sorted(self._seconds)
        found = []
        for size in sizes:
            above = next((number for number, one in enumerate(known) if one >= size), len(known) - 1)
            low, high = known[max(0, above - 1)], known[above]
            at_low, at_high = self._seconds[low], self._seconds[high]
            slope = (at_high - at_low) / (high - low) if high > low else 0.0
            found.append(at_high + max(0.0, slope) * (size - high))
        return found


class _Kind(NamedTuple):
    """Kind of an image.

    rows: of the KV cache: 1, or 2 if guided.
    has_twin: see `Slot`.
    """

    rows: int
    has_twin: bool


@dataclass
class _Choice:
    """Widths for images of given kinds, in the order of their kinds.

    steps: that are left until it is made again.
    probes: whether they are only tried, to measure them.
    patience: steps that a choice of single places is kept after this one.
    """

    widths: tuple[int, ...]
    steps: int = _KEPT_STEPS
    probes: bool = False
    patience: int = _KEPT_STEPS


class WindowChooser:
    """Chooses the widths of windows that add most codes a second.

    A window of w places is expected to add 1 + gain · reach(w) codes. Places go to the image that gains most by one more;
    their number is the one with the most codes a second. Choices are remembered by the kinds of a batch's images: when many
    run, some begin or end every few steps, and choosing would take a good part of the time.

    Args:
        tokens: codes of an image.
        ending: seconds that the end of an image takes, its pixels above all, as measured of late.
    """

    def __init__(self, tokens: int, ending: Callable[[], float]) -> None:
        self._tokens = tokens
        self._ending = ending
        self.costs = StepCosts()
        self._kinds = {False: Confirmation(0.4), True: Confirmation(0.56)}  # without and with a finished twin
        self._choices: dict[tuple[_Kind, ...], _Choice] = {}
        self._choice = _Choice(())
        self._settled = False  # whether a step was taken since the last choice
        self._saved = 0.0  # share of a step's time that probing may take, saved so far

    @property
    def due(self) -> bool:
        """Whether the widths should be chosen again, though the batch is the same."""
        return self._choice.steps <= 0

    def choose(self, slots: Sequence[Slot]) -> tuple[int, ...]:
        """Widths for the next steps of a batch."""
        if not slots:
            return ()
        kinds = [_Kind(len(slot.rows), slot.has_twin) for slot in slots]
        order = sorted(range(len(slots)), key=kinds.__getitem__)
        key = tuple(kinds[number] for number in order)
        choice = self._choices.get(key)
        if choice is None or choice.steps <= 0:
            if len(self._choices) >= _MOST_CHOICES:
                self._choices.clear()
            patience = _KEPT_STEPS if choice is None else choice.patience
            choice = self._choices[key] = self._chosen([slots[number] for number in order], patience)
        self._choice, self._settled = choice, False
        widths = dict(zip(order, choice.widths, strict=True))
        return tuple(widths[number] for number in range(len(slots)))

    def note(self, step: Step) -> StepSize | None:
        """Note a step, for the choices after it. Returns its size if `costs` should be told what it took."""
        self._choice.steps -= 1
        self._saved += _PROBE_SHARE
        # the first step after a choice is not typical: choosing belongs to it, and its batch prepares its memory
        timed = StepSize(step.fed, self._choice.probes) if self._settled and step.plain else None
        self._settled = True
        if max(step.windows) == 1:
            return timed
        for slot, window, added in zip(step.slots, step.windows, step.confirmed, strict=True):
            if window > 1:
                reached = reach(window)
                self._kinds[slot.has_twin].add(added - 1, reached)
                slot.added += added - 1
                slot.reached += reached
        return timed

    def _chosen(self, slots: Sequence[Slot], patience: int) -> _Choice:
        widths, rows = [1] * len(slots), [len(slot.rows) for slot in slots]
        plain = sum(rows)
        if plain + min(rows) > MOST_FED:
            return _kept(tuple(widths), patience)
        if not self.costs.known(plain):
            return _Choice(tuple(widths), _FIRST + 1)
        if len(slots) > 1 and self.costs.line([plain])[0] < _LEAST_SECONDS:
            return _kept(tuple(widths), patience)
        gains = [self._gain(slot) for slot in slots]
        ways, sizes, codes = [tuple(widths)], [plain], [float(len(slots))]
        while True:
            fits = [i for i, own in enumerate(rows) if widths[i] < _WIDEST and sizes[-1] + own <= MOST_FED]
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
            return _Choice(ways[way], _PROBED, probes=True, patience=patience)
        margin = _MARGIN
        if len(slots) > 1:
            margin += _APART * len(slots) * self._ending() / (self._tokens * seconds[0])
        rank = sorted(range(len(ways)), key=lambda way: seconds[way] / codes[way] * (1 + margin * (way > 0)))
        best, other = rank[0], rank[1] if rank[0] == 0 else 0  # windows, if single places are the best, and the reverse
        lost = seconds[other] / seconds[best] * codes[best] / codes[other] - 1
        if self._saved < _PROBED * max(_MARGIN, lost):
            return _kept(ways[best], patience)
        self._saved = 0.0
        return _Choice(ways[other], _PROBED, probes=True, patience=patience)

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

    def _gain(self, slot: Slot) -> float:
        """Gain that is expected of an image's windows."""
        return (_PRIOR * self._kinds[slot.has_twin].gain + slot.added) / (_PRIOR + slot.reached)


def _kept(widths: tuple[int, ...], patience: int) -> _Choice:
    """Choice of these widths; single places are kept longer each time."""
    if max(widths) > 1:
        return _Choice(widths)
    return _Choice(widths, patience, patience=min(2 * patience, _MOST_KEPT_STEPS))
