"""The bench of Jacobi decoding: recordings, replay, loads and predictions."""

import math
from pathlib import Path

import pytest
import torch

from bench.speed.engine import single_places
from bench.speed.geometry import GEOMETRIES
from bench.speed.jacobi.divergence import compare, measure_divergence
from bench.speed.jacobi.loads import shipped_loads, side_by_side
from bench.speed.jacobi.plot import draw_confirmation, fitted_gain
from bench.speed.jacobi.prediction import predict
from bench.speed.jacobi.recording import WIDTHS, Additions, ForcedWidths, Recording, Window, codes_of, pair_of, record
from bench.speed.jacobi.replay import replaying
from bench.speed.jacobi.report import report
from bench.speed.jacobi.step_cost import Accelerator, StepTimer, roofline
from model.checkpoints.load import load
from model.janus import Janus
from model.params import SamplingParams
from pairs.paircomp import Case
from serve.engine.confirmation import reach
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.job import Job
from tests.tools import needs_compiler

SAME = Case(0, "Color", ("a red star", "a red star"))
OTHER = Case(1, "Color", ("a red star", "a blue circle and two squares"))


@pytest.fixture(scope="module")
def small(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


def constant(tokens: int, *, added: int) -> Recording:
    """Every window adds `added` codes, or all of its places if they are fewer."""
    windows = {width: [[Window(place, width, min(width, added)) for place in range(tokens)]] for width in WIDTHS}
    return Recording(windows, tokens, grid=round(math.sqrt(tokens)))


@needs_compiler
def test_a_twin_of_the_same_prompt_makes_all_guesses_right(small: Janus) -> None:
    """Then every window adds all of its places: an independent count of steps for every width."""
    recorded = record(small, [SAME], twin=True)
    for width in WIDTHS:
        steps = math.ceil((small.image_tokens - 1) / width)
        assert [len(picture) for picture in recorded.windows[width]] == [steps, steps]
        assert recorded.codes_per_step(width).value == (small.image_tokens - 1) / steps
        assert all(set(line) <= {width} for line in recorded.by_line(width))


@needs_compiler
def test_a_recording_has_every_code_once(small: Janus) -> None:
    """Windows go on where the one before stopped, with a twin or not; single places add one code each."""
    for twin in (False, True):
        recorded = record(small, [OTHER], twin=twin)
        assert recorded.codes_per_step(1).value == 1
        for width in WIDTHS:
            for picture in recorded.windows[width]:
                places = [1]
                for window in picture:
                    assert window.place == places[-1]
                    assert 1 <= window.added <= window.width <= width
                    places.append(window.place + window.added)
                assert places[-1] == small.image_tokens


@needs_compiler
@pytest.mark.parametrize("added", [1, 2, 3])
def test_replayed_windows_add_what_was_recorded(small: Janus, added: int) -> None:
    (job, _), other = pair_of(small, OTHER, seed=5), pair_of(small, SAME, seed=6)[0]
    engine = Engine(small, slots=2)
    engine._windows = chooser = ForcedWidths(3)
    assert len(job.prompt) == len(other.prompt)
    with replaying(engine, constant(small.image_tokens, added=added), prompt_tokens=len(job.prompt)):
        codes_of(engine, [job, other])
    whole = [window.added for window in chooser.windows if window.width == 3]
    assert len(whole) > 4
    assert set(whole) == {added}


@needs_compiler
def test_single_places_leave_no_guesses(small: Janus) -> None:
    engine, (job, _) = Engine(small, slots=1), pair_of(small, OTHER, seed=5)
    steps: list[int] = []
    with single_places(engine):
        list(draw(engine, [job], on_step=steps.append))
    assert len(steps) == small.image_tokens
    assert engine._twins.codes(5) is None
    codes_of(engine, [job])
    assert engine._twins.codes(5) is not None


@needs_compiler
def test_loads_are_drawn_both_ways_with_seeds_of_their_own(small: Janus) -> None:
    engine, seeds = Engine(small, slots=16), list[int]()
    for one in shipped_loads(small, [SAME, OTHER]):
        jobs = [job for batch in range(3) for job in one.jobs(batch)]
        assert sum(job.images for job in one.jobs(0)) == one.images
        seeds += {seed for job in jobs for seed in job.seeds}
        timer = StepTimer(engine, [(1, 1), (one.images, 1)], small.sampling, prompt_tokens=9)
        both = side_by_side(engine, one, timer, rounds=1)
        assert [set(cost) for cost in both.costs] == [{(1, 1), (one.images, 1)}]
        assert [drawn.steps for drawn in both.plain] == [small.image_tokens]
        assert min(both.ratios("codes") + both.ratios("whole")) > 0
        assert both.plain[0].choosing == 0 < both.choosing < both.jacobi[0].own / both.jacobi[0].codes
    assert len(set(seeds)) == len(seeds)


@needs_compiler
def test_timed_steps_are_fed_whole_windows_in_every_round(small: Janus) -> None:
    """Guesses that an earlier round left would all be right, and soon the picture would end."""
    shapes = [(1, 1), (1, 24), (2, 3)]
    timer = StepTimer(Engine(small, slots=2), shapes, small.sampling, prompt_tokens=9)
    for _ in range(3):
        timer.turn()
    taken = timer.take()
    assert taken.keys() == set(shapes)
    assert min(taken.values()) > 0
    assert timer.take() == {}


def test_a_roofline_is_the_larger_of_reading_and_computing() -> None:
    """A decoder of 1.234 billion weights and a head of 38 million; one row of no tokens each."""
    one = GEOMETRIES["janus-pro-1b"]
    weights = 24 * (4 * 2048**2 + 3 * 2048 * 5632) + 2048 * (2048 + 16384)
    assert roofline(one, Accelerator("slow memory", 1e9, 1e30), (1, 4), length=0) == pytest.approx(2 * weights / 1e9)
    assert roofline(one, Accelerator("slow products", 1e30, 1e9), (3, 4), length=9) == pytest.approx(
        2 * weights * 2 * 3 * 4 / 1e9
    )
    kept = 2 * 3 * 318 * 2 * 24 * 2048  # images × rows × tokens × keys and values × layers × hidden
    more = roofline(one, Accelerator("slow memory", 1e9, 1e30), (3, 1), length=318) - 2 * weights / 1e9
    assert more == pytest.approx(2 * kept / 1e9)


def test_the_fitted_gain_is_that_of_codes_made_with_it(tmp_path: Path) -> None:
    tokens = 1001
    windows = {width: [[Window(0, width, 1)] * round((tokens - 1) / (1 + 0.5 * reach(width)))] for width in WIDTHS}
    recorded = Recording(windows, tokens, grid=1)
    assert fitted_gain(recorded) == pytest.approx(0.5, abs=0.01)
    draw_confirmation({False: recorded, True: recorded}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_a_flip_counts_once_for_the_codes_up_to_it() -> None:
    """Four pictures of five codes: equal, different from the third code on, from the first, and in the last."""
    expected = [(1, 2, 3, 4, 5)] * 4
    found = [(1, 2, 3, 4, 5), (1, 2, 9, 4, 9), (9, 2, 3, 4, 5), (1, 2, 3, 4, 9)]
    one = compare("another way", expected, found)
    assert one.same.value == 1 / 4
    assert one.prefix.value == pytest.approx((1 + 2 / 5 + 0 + 4 / 5) / 4)
    assert one.flips == 3 / (5 + 3 + 1 + 5)


def test_in_float32_nothing_diverges(small: Janus) -> None:
    """Also with windows and beside others, and each picture is compared with itself."""
    jobs = [Job([1, 5, 6 + n, 2], None, (n,), SamplingParams(2, 1)) for n in range(3)]
    for one in measure_divergence(small, jobs):
        assert (one.same.value, one.prefix.value, one.flips) == (1, 1, 0), one.way


def test_where_wide_windows_are_cut_short_narrower_ones_tell_what_they_add() -> None:
    """In lines of four codes, windows of eight places end in the picture only where they begin in the first half."""
    windows = {width: [list[Window]()] for width in WIDTHS}
    windows[1] = [[Window(place, 1, 1) for place in range(16)]]
    windows[2] = [[Window(place, 2, 1) for place in range(12, 15)]]
    windows[8] = [[Window(place, 8, 8) for place in range(9)] + [Window(12, 4, 4)]]
    additions = Additions(Recording(windows, 16, grid=4), 32)
    assert {additions.draw(8, place) for place in range(16)} == {8}
    assert {additions.draw(8, place) for place in range(24, 32)} == {1}


def alternating(width: int, tokens: int) -> list[Window]:
    """Windows of a picture: every other one adds all its places, the others one."""
    added, windows, place = width, list[Window](), 1
    while place < tokens:
        windows.append(Window(place, min(width, tokens - place), min(added, tokens - place)))
        place, added = place + added, 1 + width - added
    return windows


def test_the_prediction_is_that_of_windows_of_which_half_add_everything() -> None:
    """2.5 codes a step of 4 places. Two images that cost as much as one are drawn when the later of them is."""
    recorded = Recording({width: [alternating(width, 4000)] for width in WIDTHS}, 4000, grid=200)
    cost = {(images, width): 1.0 if width <= 4 else 100.0 for images in (1, 2) for width in WIDTHS}
    one, two = (predict(recorded, images, cost, tokens=401) for images in (1, 2))
    assert (one.width, two.width) == (4, 4)
    assert one.ratio == pytest.approx(2.5, rel=0.02)
    deviation = 1.5 / 2.5 * math.sqrt(400 / 2.5)  # of an image's steps
    assert two.ratio == pytest.approx(400 / (400 / 2.5 + deviation / math.sqrt(math.pi)), rel=0.01)


def test_windows_that_do_not_pay_are_predicted_to_gain_nothing() -> None:
    recorded = Recording({width: [alternating(width, 4000)] for width in WIDTHS}, 4000, grid=200)
    cost = {(1, width): float(width) for width in WIDTHS}
    assert predict(recorded, 1, cost, tokens=401) == (1, 1.0)


@needs_compiler
def test_the_report_compares_measured_with_predicted(small_folder: Path) -> None:
    before, lines = torch.get_num_threads(), list[str]()
    found = report(
        model=str(small_folder), geometry=None, images=[1], threads=1, rounds=1, cases=1, seconds=0, plot=None,
        show=lines.append,
    )  # fmt: skip
    torch.set_num_threads(before)
    numbers = {number.name: number for number in found.numbers}
    for precision in ("float32", "int8"):
        for load_ in ("one image", "one, twin drawn before", "a pair", "4 images", "16 images", "8 of one prompt"):
            measured = numbers[f"{precision}, {load_}, codes: single ÷ Jacobi"]
            assert measured.value > 0
            assert measured.count == 1
            assert numbers[f"{precision}, {load_}, codes: predicted single ÷ Jacobi"].value >= 1
            single, jacobi = (numbers[f"{precision}, {load_}, {way}"].value for way in ("single", "Jacobi"))
            whole = numbers[f"{precision}, {load_}, whole: single ÷ Jacobi"].value
            assert jacobi / single == pytest.approx(whole)
        assert numbers[f"{precision}, step of 2 codes"].value == 1
    assert numbers["predicted, H100, janus-pro-7b, 1 images"].value > 1


def test_bad_settings_of_the_bench_are_named() -> None:
    with pytest.raises(ValueError, match="--cases"):
        report(model="tiny", geometry=None, images=[1], threads=1, rounds=1, cases=0, seconds=0, plot=None, show=print)
