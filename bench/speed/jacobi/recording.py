"""Codes that steps of the engine add with windows of one width (`serve.engine.windows`), recorded."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from model.janus import Janus
from pairs.paircomp import Case
from pairs.scores import Mean, mean
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job
from serve.engine.slot import Slot
from serve.engine.windows import Step, WindowChooser

WIDTHS = range(1, 13)


@dataclass(frozen=True)
class Window:
    """A window of an image, as a step computed it.

    place: of its first code.
    width: its places; fewer than were wanted at an image's end.
    added: codes that it added, 1 to `width`.
    """

    place: int
    width: int
    added: int


class ForcedWidths(WindowChooser):
    """Gives every image windows of one width, and records them."""

    def __init__(self, width: int) -> None:
        super().__init__(1, lambda: 0.0)
        self._width, self.windows = width, list[Window]()

    def choose(self, slots: Sequence[Slot]) -> tuple[int, ...]:
        return (self._width,) * len(slots)

    def note(self, step: Step) -> None:
        for slot, width, added in zip(step.slots, step.windows, step.confirmed, strict=True):
            self.windows.append(Window(slot.sampled - added, width, added))


@dataclass(frozen=True)
class Recording:
    """Windows of a model's pictures.

    windows: width → for each picture, the windows of all steps after its prompt's, in order.
    tokens: codes of a picture.
    grid: codes in a line of it.
    """

    windows: Mapping[int, Sequence[Sequence[Window]]]
    tokens: int
    grid: int

    def codes_per_step(self, width: int) -> Mean:
        """Codes that a step adds: mean over pictures. The first code of a picture comes with its prompt."""
        return mean([(self.tokens - 1) / len(picture) for picture in self.windows[width]])

    def by_line(self, width: int) -> list[list[int]]:
        """For each line of the picture, codes that each window added that began there; windows cut short are left out."""
        lines: list[list[int]] = [[] for _ in range(self.tokens // self.grid)]
        for picture in self.windows[width]:
            for window in picture:
                if window.width == width:
                    lines[window.place // self.grid].append(window.added)
        return lines


class Additions:
    """Draws how many codes a window adds from the recorded windows of its width that began at the same height.

    Wide windows that begin in the last line are all cut short. The widest whole ones of that line count in their place, which
    added no more.

    Args:
        recorded: of pictures of any grid.
        tokens: codes of the picture that the windows are of.
    """

    def __init__(self, recorded: Recording, tokens: int) -> None:
        self._lines: dict[int, list[list[int]]] = {}
        for width in WIDTHS:
            narrower = self._lines.get(width - 1, [])
            lines = recorded.by_line(width)
            self._lines[width] = [line or narrower[number] for number, line in enumerate(lines)]
        self._tokens = tokens
        self._random = random.Random(0)

    def draw(self, width: int, place: int) -> int:
        """Codes that a window of so many places adds, 1 to `width`, if it begins at this place."""
        lines = self._lines[width]
        return self._random.choice(lines[place * len(lines) // self._tokens])


def record(janus: Janus, cases: Iterable[Case], *, twin: bool) -> Recording:
    """Draw both pictures of each case, one at a time, with windows of each of `WIDTHS`.

    Args:
        janus: a model with a tokenizer, of which the C functions can compute.
        cases: pairs of prompts.
        twin: whether the picture of the other prompt with the same seed is drawn before each.

    Raises:
        AssertionError: the codes are not those of single places.
    """
    jobs = [pair_of(janus, case, seed=2 * case.number + own)[:: -1 if own else 1] for case in cases for own in (0, 1)]
    plain = Engine(janus, slots=1, jacobi=False)
    expected = [codes_of(plain, [job]) for job, _ in jobs]
    found = {}
    for width in WIDTHS:
        chooser, engine, pictures = ForcedWidths(width), Engine(janus, slots=1), []
        engine._windows = chooser
        for (job, other), codes in zip(jobs, expected, strict=True):
            if twin:
                codes_of(engine, [other])
            chooser.windows = []
            assert codes_of(engine, [job]) == codes, f"windows of {width} places draw other codes"
            pictures.append(tuple(chooser.windows))
        found[width] = pictures
    return Recording(found, janus.image_tokens, janus.grid)


def pair_of(janus: Janus, case: Case, *, seed: int) -> tuple[Job, Job]:
    """Jobs of a picture of each of a case's prompts, with the same seed."""
    first, second = (Job(janus.encode(prompt), None, (seed,), janus.sampling) for prompt in case.prompts)
    return first, second


def codes_of(engine: Engine, jobs: Iterable[Job]) -> dict[tuple[Job, int], tuple[int, ...]]:
    """Draw jobs: the codes of each one's pictures."""
    return {(job, event.index): event.codes for job, event in draw(engine, jobs) if isinstance(event, Finished)}
