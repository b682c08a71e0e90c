"""Helpers of the page's tests: a real browser and real servers."""

import base64
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from bench.speed.server_process import ServerProcess, free_port, running, serve_command
from tests.tools import CHROMIUM
from ui.examples import examples

SECONDS = 60_000
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def server(port: int, *arguments: str, models: Sequence[str] = ("tiny",)) -> AbstractContextManager[ServerProcess]:
    return running(serve_command(models, port, "--device", "cpu", "--judge", "exact", *arguments), port)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, folder = free_port(), tmp_path_factory.mktemp("page")
    cases = [{"category": f"{name} difference", "caption1": a, "caption2": b} for name, a, b in examples(each=6)]
    (folder / "PairComp.json").write_text(json.dumps(cases))
    page = ("--votes", str(folder / "votes.sqlite"), "--paircomp", str(folder / "PairComp.json"))
    with server(port, *page, models=("tiny", "tiny-base")):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, address: str, **more: object) -> Iterator[Page]:
    """Open `address` in a fresh browser context; a request to another host or a script error fails the test."""
    with browser.new_context(**more) as context:  # type: ignore[arg-type]
        yield from _visited(context.new_page(), address)


def _visited(page: Page, address: str) -> Iterator[Page]:
    outside: list[str] = []
    broken: list[str] = []
    own = re.compile(r"^(http://127\.0\.0\.1:|data:|blob:)")
    page.on("request", lambda request: outside.append(request.url) if not own.match(request.url) else None)
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(address)
    expect(page.locator("#draw")).to_be_visible(timeout=SECONDS)
    expect(page.locator("#below input")).to_have_value("tiny", timeout=SECONDS)
    if "first=" not in address:  # not a link: or the example, drawn for the first visitor, would take previews' time
        expect(page.locator("#status")).to_contain_text("An example.", timeout=SECONDS)
    yield page
    assert outside == []
    assert broken == []


def draw(page: Page, first: str, second: str) -> None:
    page.locator("#left textarea, #left input").fill(first)
    page.locator("#right textarea, #right input").fill(second)
    page.locator("#draw").click()


def done(page: Page) -> None:
    expect(page.locator("#status")).to_contain_text("Done.", timeout=SECONDS)


def shot(page: Page, name: str, *, full: bool = True) -> None:
    """Take a screenshot; if FOCUSDIFF_SCREENSHOTS names a folder, save it there, as for the documentation."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # let opening and closing animations end
    folder = os.environ.get("FOCUSDIFF_SCREENSHOTS")
    picture = page.screenshot(full_page=full)
    assert picture.startswith(b"\x89PNG")
    if folder:
        image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE)
        image.save(Path(folder) / f"{name}.png", optimize=True)


def set_setting(page: Page, name: str, value: str) -> None:
    settings = page.locator("#settings")
    box = page.locator(f"#{name} input, #{name} textarea").first
    if not box.is_visible():
        settings.locator("button").first.click()
        expect(box).to_be_visible(timeout=SECONDS)
        page.wait_for_timeout(300)  # the panel opens with an animation and is built meanwhile
    box.fill(value)


def pictures(page: Page) -> list[str]:
    """The `src` of every picture on the board, without overlays; call `done` first."""
    sources = page.locator("#board img:not(.overlay)").evaluate_all("all => all.map(one => one.src)")
    return [str(source) for source in sources]


def levels(source: str) -> NDArray[np.int16]:
    """Pixel levels of a picture, given as a data URL."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))).astype(np.int16)
