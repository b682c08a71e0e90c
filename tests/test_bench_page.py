"""The page of a run of PairComp, opened from its file in a real browser."""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from bench.benchmarks.paircomp import PairComp
from bench.pictures.errors import RunError
from bench.pictures.generator import Drawings, Generator
from bench.pictures.picture import Part
from bench.report.page import write_page
from bench.report.paircomp_run import PairCompRun, read_run
from bench.report.paircomp_scores import measures_of, paired_difference
from bench.report.paircomp_text import difference_lines
from tests.browser import browser, shot
from tests.coloured_generator import ColouredGenerator, colour
from tests.locked_runs import run
from tests.scripted_judge import ScriptedJudge
from tests.tools import needs_browser

__all__ = ["browser"]  # a fixture
CASES = [
    {"category": "Color difference", "caption1": f"a <b>{shape}</b> in red", "caption2": f"a <b>{shape}</b> in blue"}
    for shape in ("star", "heart", "circle", "square")
] + [{"category": "Text difference", "caption1": 'a sign "SUN"', "caption2": 'a sign "RUN"'}]


def judged(
    folder: Path, generator: Generator | None = None, *, seed: int = 0, cases: Sequence[object] = CASES
) -> PairCompRun:
    """A run of coloured pictures that two judges have judged."""
    file = folder.parent / "PairComp.json"
    file.write_text(json.dumps(cases))
    for judge in (ScriptedJudge().opened(), ScriptedJudge(inverted=True).opened("pale")):
        run(PairComp([file], seed=seed), generator or ColouredGenerator(codes=True), judge, folder)
    return read_run(folder)


class Stretched(ColouredGenerator):
    """Draws pictures of another size."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self._size = width, height

    def draw(self, parts: Sequence[Part]) -> Drawings:
        for one in super().draw(parts):
            yield replace(one, image=one.image.resize(self._size))


@contextmanager
def opened(browser: Browser, file: Path) -> Iterator[Page]:
    """Open a file in the browser; a request or a script error fails the test."""
    with browser.new_context() as context:
        page = context.new_page()
        faults: list[str] = []
        page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else faults.append(one.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"file://{file}")
        yield page
        assert faults == []


def s_g(one: PairCompRun, judge: str) -> dict[int, float]:
    (scores,) = [found.scores for found in one.judges if found.name == judge]
    return {number: measures_of(own)["s_g"] for number, own in scores.items()}


def numbers(page: Page) -> list[int]:
    """Numbers of the cases that are shown, in order."""
    shown = [case for case in page.locator(".case").all() if case.is_visible()]
    return [int(case.get_attribute("data-number") or "") for case in shown]


@needs_browser
def test_the_page_shows_failures_worst_first_by_judge_and_category(browser: Browser, tmp_path: Path) -> None:
    one = judged(tmp_path / "run")
    write_page(tmp_path / "report.html", one)
    with opened(browser, tmp_path / "report.html") as page:
        for judge in ("red", "pale"):
            page.locator("#judge").select_option(judge)
            scores = s_g(one, judge)
            assert numbers(page) == sorted(scores, key=scores.__getitem__)
            worst = page.locator(".case").first
            expect(worst.locator(".s_g")).to_have_text(f"s_g {100 * min(scores.values()):.1f}")
        page.locator("#category").select_option("Text")
        assert numbers(page) == [4]
        expect(page.locator("#count")).to_have_text("1 cases")
        assert page.locator(".case:visible mark").all_inner_texts() == ["SUN", "RUN"]
        page.locator("#category").select_option("")
        page.locator("#order").select_option("number")
        assert numbers(page) == [0, 1, 2, 3, 4]
        assert page.locator(".case").first.locator(".prompt").first.inner_text() == "a <b>star</b> in red"
        captions = page.locator(".case").first.locator("figcaption").all_inner_texts()
        (pale,) = [found.scores[0] for found in one.judges if found.name == "pale"]
        assert captions == [f"{100 * score:.1f}" for score in pale]


@needs_browser
def test_the_overlay_shows_the_codes_that_differ_between_the_prompts(browser: Browser, tmp_path: Path) -> None:
    """The colours' codes are in the lower row; only there the picture shows through."""
    write_page(tmp_path / "report.html", judged(tmp_path / "run"))
    with opened(browser, tmp_path / "report.html") as page:
        figure = page.locator(".case figure").first
        overlay = figure.locator(".overlay")
        assert overlay.evaluate("one => getComputedStyle(one).opacity") == "0"
        page.locator("#differences").check()
        assert overlay.evaluate("one => getComputedStyle(one).opacity") == "1"
        alpha = """one => { const c = document.createElement("canvas"); c.width = c.height = 192;
            const pen = c.getContext("2d"); pen.drawImage(one, 0, 0);
            return [[96, 40], [72, 170]].map(([x, y]) => pen.getImageData(x, y, 1, 1).data[3]); }"""
        veiled, clear = overlay.evaluate(alpha)
        assert veiled > 100
        assert clear == 0


@needs_browser
@pytest.mark.parametrize("size", [(400, 200), (10, 20)])
def test_pictures_that_are_not_square_keep_their_shape(browser: Browser, tmp_path: Path, size: tuple[int, int]) -> None:
    """The longer side becomes 192 pixels: one picture is wide and is shrunk, the other is high and is enlarged."""
    write_page(tmp_path / "report.html", judged(tmp_path / "run", Stretched(*size)))
    with opened(browser, tmp_path / "report.html") as page:
        picture = page.locator('.case[data-number="0"] figure img').first
        width, height = Image.open(BytesIO(base64.b64decode((picture.get_attribute("src") or "").split(",")[1]))).size
        assert width * size[1] == height * size[0]
        picture.evaluate("one => one.scrollIntoView({block: 'center'})")  # clear of the bar at the top
        shown = np.asarray(Image.open(BytesIO(picture.screenshot())).convert("RGB"), dtype=np.int16)
        there = np.abs(shown - colour(CASES[0]["caption1"], 0)).max(axis=2) < 8
        scale = 192 / max(size)
        assert there.any(axis=0).sum() == pytest.approx(scale * size[0], abs=1)
        assert there.any(axis=1).sum() == pytest.approx(scale * size[1], abs=1)


@needs_browser
def test_two_runs_are_compared_case_by_case(browser: Browser, tmp_path: Path) -> None:
    one, other = (
        judged(tmp_path / "one"),
        judged(tmp_path / "other", ColouredGenerator(codes=True, model="others"), seed=100),
    )
    write_page(tmp_path / "both.html", one, other)
    lost = {number: value - s_g(other, "red")[number] for number, value in s_g(one, "red").items()}
    with opened(browser, tmp_path / "both.html") as page:
        page.locator("#judge").select_option("red")
        assert numbers(page) == sorted(lost, key=lost.__getitem__)
        page.locator("#order").select_option("won")
        assert numbers(page) == sorted(lost, key=lost.__getitem__, reverse=True)
        assert page.locator(".case").first.locator(".run header").all_inner_texts() == ["colours", "others"]
        shot(page, "compared")


def test_a_difference_between_runs_is_paired_by_case(tmp_path: Path) -> None:
    """A gain that is the same in every case has no spread, however much the cases differ."""
    one = judged(tmp_path / "run")
    scores = one.judges[0].scores
    lower = {number: [score / 2 for score in own] for number, own in scores.items()}
    higher = {number: [score / 2 + 0.1 for score in own] for number, own in scores.items()}
    gain = paired_difference(one.cases, lower, higher).average.measures["s_a"]
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))


def test_runs_of_different_cases_are_not_compared(tmp_path: Path) -> None:
    one = judged(tmp_path / "one")
    other = judged(tmp_path / "other", cases=CASES[1:])
    with pytest.raises(RunError, match="runs of different cases"):
        write_page(tmp_path / "both.html", one, other)
    with pytest.raises(RunError, match="runs of different cases"):
        list(difference_lines(one, other))
