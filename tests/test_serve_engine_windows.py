"""Windows in the engine: which widths pay, guesses of finished pictures, previews."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from torch import Tensor

from model.janus import Janus
from serve.engine.confirmation import reach
from serve.engine.engine import Engine
from serve.engine.events import Finished, Preview
from serve.engine.job import Job, JobState
from serve.engine.slot import Slot
from serve.engine.windows import Step, WindowChooser
from tests.drawing import GREEDY, SETTINGS, codes_of, job, run
from tests.random_windows import RandomWindows
from tests.tools import needs_compiler


@pytest.fixture(scope="module")
def prompts(golden: Mapping[str, Tensor]) -> list[list[int]]:
    return [golden[f"prompt{i}.input_ids"].tolist() for i in range(3)]


def slots(count: int, *, guided: bool = True) -> list[Slot]:
    params = GREEDY if guided else SETTINGS[1]
    return [Slot(JobState(job([1], params, 0)), 0, (2 * n, 2 * n + 1)[: 1 + guided]) for n in range(count)]


def tell(chooser: WindowChooser, step: Step, seconds: float) -> None:
    """Tell a chooser of a step, after its images gained their codes, and what it took."""
    for slot, codes in zip(step.slots, step.confirmed, strict=True):
        slot.sampled += codes
    if size := chooser.note(step):
        chooser.costs.add(size, seconds)


def measure(chooser: WindowChooser, seconds: Mapping[int, float]) -> None:
    """Let a chooser measure steps of all sizes on the lines through these."""
    for fed in range(min(seconds), max(seconds) + 1):
        for _ in range(4):
            chooser.costs.add(fed, float(np.interp(fed, list(seconds), list(seconds.values()))))


def widths(
    images: list[Slot], *, seconds: Mapping[int, float], gain: float | None = None, apart: float = 0.0
) -> tuple[int, ...]:
    """Choice of a chooser that has measured steps of these sizes and, on the lines between them, of all others.

    gain: of these images' windows. apart: seconds that an image's end takes longer alone.
    """
    chooser = WindowChooser(64, lambda: apart)
    if seconds:
        measure(chooser, seconds)
    if gain is not None:
        for slot in images:
            slot.added, slot.expected = round(1e6 * gain), 0.4 * 1e6
    return chooser.choose(images)


def test_nothing_is_widened_before_plain_steps_were_measured() -> None:
    assert widths(slots(2), seconds={}) == (1, 1)
    assert widths(slots(2), seconds={8: 1.0}) == (1, 1)


def test_steps_that_cost_the_same_are_as_wide_as_possible() -> None:
    assert widths(slots(1), seconds={2: 1, 64: 1}) == (12,)
    assert widths(slots(4), seconds={8: 1, 64: 1}) == (8, 8, 8, 8)  # 64 codes in a step


def test_steps_that_cost_as_much_as_their_codes_are_plain() -> None:
    assert widths(slots(1), seconds={2: 2, 64: 64}) == (1,)
    assert widths(slots(3), seconds={6: 6, 64: 64}) == (1, 1, 1)


@pytest.mark.parametrize("gain", [0.2, 0.4, 0.8])
@pytest.mark.parametrize("step", [0.02, 0.05, 0.1])
def test_the_width_of_one_image_has_the_most_codes_a_second(gain: float, step: float) -> None:
    """Against all widths, with a step that costs 1 + `step` for every code more."""
    best = max(range(1, 13), key=lambda w: (1 + gain * reach(w)) / (1 + step * 2 * (w - 1)) / (1 + 0.05 * (w > 1)))
    seconds = {2 * w: 1 + step * 2 * (w - 1) for w in range(1, 33)}
    assert widths(slots(1), seconds=seconds, gain=gain) == (best,)


def test_places_go_to_the_image_whose_guesses_are_right() -> None:
    images = slots(2)
    images[0].added, images[0].expected = 800, 400.0
    chooser = WindowChooser(64, lambda: 0.0)
    measure(chooser, {4: 1.2, 64: 4.2})
    images[1].added, images[1].expected = 50, 400.0
    first, second = chooser.choose(images)
    assert first > 3 * second
    assert widths([*slots(1), *slots(1, guided=False)], seconds={3: 1, 64: 1.5})[1] > 1


def test_several_images_are_plain_where_ends_apart_take_long() -> None:
    """Windows make images end in different steps, here of 64 codes and a second a step.

    Four windows of 8 places add 1 + .4 * 7 ** .65 = 2.4 codes in a step: 37 seconds are saved, less the margin.
    """
    seconds = {2: 1.0, 8: 1.0, 64: 1.0}
    assert widths(slots(4), seconds=seconds, apart=1.2 * 64 / 4) == (8,) * 4
    assert widths(slots(4), seconds=seconds, apart=1.5 * 64 / 4) == (1,) * 4
    assert widths(slots(1), seconds=seconds, apart=100 * 64.0) == (12,)


def test_several_images_are_plain_where_a_step_takes_less_than_2_ms() -> None:
    assert widths(slots(2), seconds={4: 0.0019, 64: 0.0019}) == (1, 1)
    assert widths(slots(2), seconds={4: 0.0021, 64: 0.0021}) == (12, 12)
    assert widths(slots(1), seconds={2: 0.0002, 64: 0.0002}) == (12,)


def test_a_batch_that_fills_a_step_is_plain() -> None:
    assert widths(slots(32), seconds={64: 1}) == (1,) * 32
    assert widths(slots(40), seconds={80: 1}) == (1,) * 40


def test_widths_that_look_worse_are_measured_now_and_then() -> None:
    """In a two-hundredth of the time. Windows add nothing and are dear at first, then become cheap and add codes."""
    chooser, images = WindowChooser(4096, lambda: 0.0), slots(1)
    for fed, seconds in ((2, 1.0), (4, 1.9), (24, 10.0)):
        for _ in range(4):
            chooser.costs.add(fed, seconds)
    taken = 0.0
    wide = 0
    window = chooser.choose(images)[0]
    for step in range(1500):
        if chooser.due:
            window = chooser.choose(images)[0]
        seconds = 1.0 if step > 500 else {1: 1.0, 2: 1.9}.get(window, 10.0)
        taken += seconds if step <= 500 else 0
        wide += window > 1 and step <= 500
        gained = 1 if step <= 500 else min(window, 3)
        tell(chooser, Step(images, [window], [gained], 2 * window, plain=True), seconds)
    assert wide > 0
    assert taken < 501 * 1.011
    assert chooser.choose(images)[0] > 1


def test_single_places_are_chosen_ever_more_rarely() -> None:
    """Each choice is kept for 16, 32, 64, … steps, at most 256, also from one image to the next."""
    chooser = WindowChooser(64, lambda: 0.0)
    for fed, seconds in ((2, 1.0), (24, 30.0)):
        for _ in range(4):
            chooser.costs.add(fed, seconds)
    kept, last = [], 0
    for step in range(1, 754):
        image = slots(1)
        chooser.choose([])
        tell(chooser, Step(image, chooser.choose(image), [1], 2, plain=True), 1.0)
        if chooser.due:
            kept.append(step - last)
            last = step
    assert kept == [16, 32, 64, 128, 256, 256]


def test_the_first_step_after_a_choice_does_not_count() -> None:
    """It includes choosing, and its batch prepares its memory."""
    chooser, images = WindowChooser(4096, lambda: 0.0), slots(1)
    for seconds in (1.0, 1.0, 9.0):
        for step in range(3):
            if not step:
                chooser.choose(images)
            tell(chooser, Step(images, [1], [1], 2, plain=True), 1.0 if step else seconds)
    assert chooser.costs.line([2]) == [1.0]


def test_choices_are_remembered_when_images_begin_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen and fifteen images in turn: as many choices as if each number had run alone."""
    made = []
    chosen = WindowChooser._chosen

    def count(self: WindowChooser, slots: Sequence[Slot], patience: int) -> object:
        made.append(len(slots))
        return chosen(self, slots, patience)

    monkeypatch.setattr(WindowChooser, "_chosen", count)
    chooser = WindowChooser(64, lambda: 0.0)
    for fed, seconds in ((30, 3.0), (32, 3.2), (64, 30.0)):
        for _ in range(4):
            chooser.costs.add(fed, seconds)
    for step in range(96):
        images = slots(16 - step % 2)
        tell(
            chooser,
            Step(images, chooser.choose(images), [1] * len(images), 2 * len(images), plain=True),
            0.1 * len(images),
        )
    assert sorted(made) == [15] * 2 + [16] * 2  # kept for 16 and 32 of their 48 steps


def test_an_engine_learns_from_its_first_steps_what_windows_cost() -> None:
    """Steps as a small model's on a CPU: cheap up to 8 codes, then dear. In 50 steps the best width is found and kept, and
    drawing so many codes one by one would have taken hardly less time."""
    chooser, images = WindowChooser(4096, lambda: 0.0), slots(1)
    cost = {2: 1.0, 4: 1.08, 6: 1.24, 8: 1.62, 10: 2.06, 12: 2.12, 14: 2.54, 16: 2.68, 20: 3.44, 24: 3.71}
    codes = [0, 1, 1.364, 1.62, 1.809, 1.948, 2.134, 2.382, 2.456, 2.499, 2.591, 2.674, 2.719]
    taken = drawn = owed = 0.0
    window, last = chooser.choose(images)[0], list[int]()
    for _ in range(50):
        if chooser.due:
            window = chooser.choose(images)[0]
        seconds = float(np.interp(2 * window, list(cost), list(cost.values())))
        owed += codes[window]
        gained = int(owed - drawn)
        tell(chooser, Step(images, [window], [gained], 2 * window, plain=True), seconds)
        taken, drawn = taken + seconds, drawn + gained
        last.append(window)
    best = min(
        range(1, 13), key=lambda width: float(np.interp(2 * width, list(cost), list(cost.values()))) / codes[width]
    )
    assert sum(width in (best, best + 1) for width in last[-20:]) >= 18, last  # but for two of a probe
    assert taken < drawn * 1.05


def test_dear_windows_are_hardly_tried() -> None:
    """Steps that cost as much as their codes: among the first 200, what is tried loses less than 25 plain ones would take."""
    chooser, images = WindowChooser(4096, lambda: 0.0), slots(1)
    taken = drawn = 0.0
    window = chooser.choose(images)[0]
    for _ in range(200):
        if chooser.due:
            window = chooser.choose(images)[0]
        tell(chooser, Step(images, [window], [1], 2 * window, plain=True), float(window))
        taken, drawn = taken + window, drawn + 1
    assert taken - drawn < 25, taken


def test_widths_go_with_the_kind_of_an_image_not_with_its_place() -> None:
    """One of two images has a finished twin. That image gets the wider window, wherever it stands in the batch."""
    chooser = WindowChooser(64, lambda: 0.0)
    for fed in range(4, 65, 2):
        for _ in range(4):
            chooser.costs.add(fed, 1 + fed / 12)
    without, with_twin = slots(2)
    with_twin.has_twin = True
    for _ in range(2):  # chosen, then remembered
        narrow, wide = chooser.choose([without, with_twin])
        assert narrow < wide
        assert chooser.choose([with_twin, without]) == (wide, narrow)


def test_windows_go_where_in_the_picture_they_add_codes() -> None:
    """They add nothing in the upper half and three codes in the lower one: after some pictures they are used there only."""
    chooser = WindowChooser(400, lambda: 0.0)
    measure(chooser, {2: 1.0, 64: 4.0})
    used: dict[bool, list[int]]
    for _ in range(10):
        image, used = slots(1), {False: [], True: []}
        while image[0].sampled < 400:
            lower = image[0].sampled >= 200
            if chooser.due or not image[0].sampled:
                width = chooser.choose(image)[0]
            used[lower].append(width)
            gained = min(width, 4 if lower else 1, 400 - image[0].sampled)
            tell(
                chooser,
                Step(image, [width], [gained], 2 * width, plain=True),
                float(np.interp(2 * width, [2, 64], [1, 4])),
            )
    assert np.mean(used[False]) < 1.5  # in the last picture
    assert np.mean(used[True]) > 3


def test_widths_are_chosen_again_at_the_next_height() -> None:
    """An eighth of the picture further down, though the choice of single places would be kept for 16 steps."""
    chooser, image = WindowChooser(64, lambda: 0.0), slots(1)
    measure(chooser, {2: 2, 64: 64})
    image[0].sampled = 1
    assert chooser.choose(image) == (1,)
    while not chooser.due:
        tell(chooser, Step(image, [1], [1], 2, plain=True), 2.0)
    assert image[0].sampled == 8


def test_a_pair_whose_steps_are_too_short_for_windows_costs_nothing_until_they_are_longer() -> None:
    """At no height of the picture is anything chosen; of 256 steps of 1 ms 8 are measured. Steps of 3 ms are found soon."""
    chooser, images, measured = WindowChooser(4096, lambda: 0.0), slots(2), 0
    for fed in (24, 4):
        for _ in range(8):
            chooser.costs.add(fed, 0.001)
    for slot in images:
        slot.sampled = 1
    assert chooser.choose(images) == (1, 1)
    for _ in range(256):
        assert not chooser.due
        measured += chooser.note(Step(images, [1, 1], [1, 1], 4, plain=True)) is not None
    assert chooser.due
    assert measured == 8
    steps = 0
    while not chooser.due or max(chooser.choose(images)) == 1:
        tell(chooser, Step(images, [1, 1], [1, 1], 4, plain=True), 0.003)
        steps += 1
        assert steps <= 512


@needs_compiler
def test_a_picture_with_a_finished_ones_seed_takes_its_codes_as_guesses(
    deepseek: Janus, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same picture again takes a step for 12 codes; after other weights were loaded, nothing is guessed."""
    engine = Engine(deepseek, slots=1)
    engine._windows = RandomWindows(0, widest=1)
    engine._windows.choose = lambda slots: (12,) * len(slots)  # type: ignore[method-assign]
    one = job(prompts[0], SETTINGS[2], 5)

    def steps() -> int:
        engine.submit(one)
        count = 0
        while not engine.idle:
            engine.step()
            count += 1
        return count

    first = steps()
    assert steps() == 1 + -(-(deepseek.image_tokens - 1) // 12) < first
    engine.load_weights(deepseek.network)
    assert steps() == first
    monkeypatch.setattr("serve.engine.twins._MOST", 3)
    for seed in range(100, 103):
        run(engine, [(0, job(prompts[0], SETTINGS[2], seed))])
    assert steps() == first  # its codes are forgotten


def test_previews_show_what_they_show_without_windows(deepseek: Janus, prompts: list[list[int]]) -> None:
    """A window may cross several rows: then the last one that is asked for is shown."""
    rows = frozenset(range(1, deepseek.grid))
    seen = []
    for windows in (None, RandomWindows(1, widest=7)):
        engine = Engine(deepseek, slots=2)
        engine._windows = windows
        events = run(engine, [(0, Job(prompts[0], None, (1, 2), SETTINGS[2], preview_rows=rows))])[0]
        seen.append({(e.index, e.rows): np.asarray(e.picture) for e in events if isinstance(e, Preview)})
        assert len([e for e in events if isinstance(e, Finished)]) == 2
        assert codes_of(events)
    plain, wide = seen
    assert wide
    assert wide.keys() <= plain.keys()
    assert all(np.array_equal(wide[key], plain[key]) for key in wide)
