"""The demo in a real browser, against a real server with the shipped models."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from bench.startup import free_port

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60_000
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

if CHROMIUM is None and os.environ.get("FOCUSDIFF_BROWSER") != "required":
    pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)", allow_module_level=True)


@contextmanager
def server(port: int, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "serve.command", "--model", "tiny", "--model", "tiny-base", "--judge", "exact"]
    process = subprocess.Popen([*command, "--port", str(port), "--device", "cpu", *arguments])
    try:
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline
            assert process.poll() is None
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with server(port, "--votes", str(tmp_path_factory.mktemp("votes") / "votes.sqlite")):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, address: str, **more: object) -> Iterator[Page]:
    """A page in a fresh context; requests to anywhere else, and errors of scripts, fail the test."""
    context = browser.new_context(**more)  # type: ignore[arg-type]
    page = context.new_page()
    outside: list[str] = []
    broken: list[str] = []
    own = re.compile(r"^(http://127\.0\.0\.1:|data:|blob:)")
    page.on("request", lambda request: outside.append(request.url) if not own.match(request.url) else None)
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(address)
    expect(page.locator("#draw")).to_be_visible(timeout=SECONDS)
    expect(page.locator("#below input")).to_have_value("tiny", timeout=SECONDS)
    page.wait_for_timeout(500)  # the answer that names the models empties the settings as well
    yield page
    assert outside == []
    assert broken == []
    context.close()


def test_what_is_typed_before_the_page_is_ready_stays(browser: Browser, url: str) -> None:
    """The names of the models come late: by then somebody has typed."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.locator("#left textarea, #left input").fill("two green stars")
    page.locator("#right textarea, #right input").fill("two green hearts")
    expect(page.locator("#below input")).to_have_value("tiny", timeout=SECONDS)
    page.wait_for_timeout(1500)
    assert page.locator("#left textarea, #left input").input_value() == "two green stars"
    assert page.locator("#right textarea, #right input").input_value() == "two green hearts"
    context.close()


def test_the_documentation_of_the_api_opens_and_draws(browser: Browser, url: str) -> None:
    """Swagger's page, from this server alone: a route opens, its example is sent, the answer is shown."""
    context = browser.new_context()
    page = context.new_page()
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if not request.url.startswith(url) else None)
    page.goto(f"{url}/docs")
    route = page.locator("#operations-images-generations_v1_images_generations_post")
    route.locator(".opblock-summary-control").first.click()
    route.get_by_role("button", name="Try it out").click()
    route.locator("textarea").fill('{"prompt": "a blue star", "seed": 1}')
    route.get_by_role("button", name="Execute").click()
    expect(route.locator(".live-responses-table tbody .response-col_status")).to_contain_text("200", timeout=SECONDS)
    assert [address for address in outside if not address.startswith(("data:", "blob:"))] == []
    context.close()


def draw(page: Page, first: str, second: str) -> None:
    page.locator("#left textarea, #left input").fill(first)
    page.locator("#right textarea, #right input").fill(second)
    page.locator("#draw").click()


def done(page: Page) -> None:
    expect(page.locator("#status")).to_contain_text("Done.", timeout=SECONDS)


def set_number(page: Page, name: str, value: str) -> None:
    settings = page.locator("#settings")
    if not page.locator(f"#{name} input").first.is_visible():
        settings.locator("button").first.click()
    page.locator(f"#{name} input").first.fill(value)


def pictures(page: Page) -> list[str]:
    """Sources of all pictures, once all are done."""
    sources = page.locator("#board img:not(.overlay)").evaluate_all("all => all.map(one => one.src)")
    return [str(source) for source in sources]


def test_typing_marks_the_words_that_differ(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        page.locator("#left textarea, #left input").fill("a red heart above a blue star")
        page.locator("#right textarea, #right input").press_sequentially(" x")
        page.locator("#right textarea, #right input").fill("a red heart below a blue star")
        expect(page.locator("#difference mark").first).to_have_text("above", timeout=SECONDS)
        assert page.locator("#difference mark").all_inner_texts() == ["above", "below"]


def test_two_models_two_prompts_previews_judgements_and_overlay(browser: Browser, url: str, tmp_path: Path) -> None:
    with visit(browser, url, viewport={"width": 1200, "height": 1000}) as page:
        page.evaluate(
            """() => {
                window.states = new Set();
                new MutationObserver(() => document.querySelectorAll('#board .picture').forEach(
                    one => window.states.add(one.dataset.state))).observe(document.body, {childList: true, subtree: true});
            }"""
        )
        set_number(page, "seed", "7")
        draw(page, "three red circles", "four red circles")
        done(page)
        assert len(pictures(page)) == 8  # two models, two seeds, two prompts
        assert page.locator("#board .model h3").all_inner_texts() == ["tiny-base", "tiny"]
        states = page.evaluate("() => [...window.states]")
        assert "done" in states
        assert any(str(state).startswith("row ") for state in states), "no preview was seen"
        facts = page.locator('#board .model[aria-label="tiny"] .facts').first.inner_text()
        assert re.search(r"seed 7\n", facts)
        assert re.search(r"\d+% of the codes differ", facts)
        assert re.search(r"s.?a.? \d\.\d\d, s.?g.? \d\.\d\d", facts.replace("\n", " "))
        overlay = page.locator("#board .overlay").first
        expect(overlay).to_be_hidden()
        page.locator("#overlay input").check()
        expect(overlay).to_be_visible()
        page.screenshot(path=tmp_path / "overlay.png", full_page=True)
        page.locator("#overlay input").uncheck()
        expect(overlay).to_be_hidden()


def test_stop_cancels_on_the_server(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        page.locator("#settings button").first.click()
        page.locator("#count input").first.fill("4")
        page.locator("#sweep").click()
        expect(page.locator("#board img").first).to_be_visible(timeout=SECONDS)
        page.locator("#stop").click()
        expect(page.locator("#status")).to_contain_text("Stopped", timeout=SECONDS)
        deadline = time.monotonic() + 5
        while re.search(
            r'focusdiff_(running|waiting)_images\{model="tiny\S*"\} [1-9]', httpx.get(f"{url}/metrics").text
        ):
            assert time.monotonic() < deadline
        before = httpx.get(f"{url}/metrics").text
        time.sleep(1)
        after = httpx.get(f"{url}/metrics").text
        count = re.compile(r'focusdiff_images_total\{model="tiny"\} (\S+)')
        assert count.findall(before) == count.findall(after)  # the sweep does not go on behind the page


def test_a_sweep_shows_five_guidance_scales_of_one_seed(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        set_number(page, "seed", "3")
        page.locator("#sweep").click()
        done(page)
        headings = page.locator("#board .sweep h2").all_inner_texts()
        assert headings == [f"guidance {scale}" for scale in (1, 2, 3, 5, 8)]
        assert len(pictures(page)) == 5 * 2 * 2
        assert set(re.findall(r"seed (\d+)", page.locator("#board").inner_text())) == {"3"}


def test_a_link_gives_the_same_pictures_in_a_fresh_browser(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        draw(page, 'a red sign that says "FOX"', 'a red sign that says "BOX"')
        done(page)
        drawn = pictures(page)
        page.locator("#history button").first.click()
        link = page.locator("#links a").first.get_attribute("href")
        with page.expect_download() as download:
            page.locator("#json").click()
        content = json.loads(Path(download.value.path()).read_text())
        assert content[0]["first"] == 'a red sign that says "FOX"'
        with page.expect_download() as download:
            page.locator("#grid").click()
        assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    with visit(browser, f"{url}/{link}") as page:
        expect(page.locator("#left textarea, #left input")).to_have_value('a red sign that says "FOX"', timeout=SECONDS)
        page.locator("#draw").click()
        done(page)
        assert pictures(page) == drawn


def test_blind_votes_are_counted_and_exported(browser: Browser, url: str) -> None:
    """The names are not on the page until the vote; then the rates and the exports have it."""
    with visit(browser, url) as page:
        page.locator("#blind button").first.click()
        for number in (1, 2):
            page.locator("#blind-draw").click()
            expect(page.locator("#vote-first")).to_be_enabled(timeout=SECONDS)
            assert "tiny" not in page.locator("#blind-board").inner_html()
            assert page.locator("#blind-board h3").all_inner_texts() == ["A", "B"]
            page.locator("#vote-first").click()
            expect(page.locator("#blind-status")).to_contain_text("Thank you", timeout=SECONDS)
            expect(page.locator("#vote-first")).to_be_disabled(timeout=SECONDS)
            expect(page.locator("#rates td").nth(2)).to_have_text(str(number), timeout=SECONDS)
        said = page.locator("#blind-status").inner_text()
        with page.expect_download() as download:
            page.locator("#votes-jsonl").click()
        votes = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
        assert len(votes) == 2
        assert said == f"Thank you. A was {votes[1]['first']}, B was {votes[1]['second']}."


def test_errors_are_sentences(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        draw(page, "", "a star")
        expect(page.locator("#status .error")).to_contain_text("rompt", timeout=SECONDS)
        draw(page, "red " * 400, "a star")
        expect(page.locator("#status .error")).to_contain_text("tokens", timeout=SECONDS)
        draw(page, "a red star", "a blue star")
        done(page)


def test_two_browsers_at_once_do_not_mix(browser: Browser, url: str) -> None:
    with visit(browser, url) as one, visit(browser, url) as other:
        for page, seed in ((one, "1"), (other, "2")):
            set_number(page, "seed", seed)
        draw(one, "a red star", "a blue star")
        draw(other, "a green heart", "a purple heart")
        done(one)
        done(other)
        assert set(re.findall(r"seed (\d+)", one.locator("#board").inner_text())) == {"1", "2"}
        assert set(re.findall(r"seed (\d+)", other.locator("#board").inner_text())) == {"2", "3"}
        assert not set(pictures(one)) & set(pictures(other))


def test_a_server_that_is_gone_and_comes_back(browser: Browser) -> None:
    """The demo runs alone here, against a server that is killed and started again."""
    port, ui_port = free_port(), free_port()
    address = f"http://127.0.0.1:{ui_port}"
    command = [sys.executable, "-m", "ui.command", "--server", f"http://127.0.0.1:{port}", "--port", str(ui_port)]
    demo = subprocess.Popen(command)
    try:
        with server(port, "--no-ui"):
            deadline = time.monotonic() + 60
            while True:
                assert time.monotonic() < deadline
                try:
                    httpx.get(address)
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            context = browser.new_context()
            page = context.new_page()
            page.goto(address)
            expect(page.locator("#below input")).to_have_value("tiny", timeout=SECONDS)
        draw(page, "a red star", "a blue star")
        expect(page.locator("#status .error")).to_contain_text("does not answer", timeout=SECONDS)
        with server(port, "--no-ui"):
            page.locator("#draw").click()
            done(page)
        context.close()
    finally:
        demo.kill()
        demo.wait()


def test_a_server_with_keys_asks_for_one(browser: Browser) -> None:
    port = free_port()
    with server(port, "--api-keys", "sk-right"):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        expect(page.locator("#status .error")).to_contain_text("key", timeout=SECONDS)
        page.locator("#settings button").first.click()
        page.locator("#key input").fill("sk-right")
        page.locator("#key input").press("Enter")
        expect(page.locator("#below input")).to_have_value("tiny", timeout=SECONDS)
        page.locator("#draw").click()
        done(page)
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_colour_scheme(browser: Browser, url: str, scheme: str) -> None:
    look = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme}
    with visit(browser, url, **look) as page:
        page.locator("#draw").press("Enter")  # by keyboard
        done(page)
        wide = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", str(background))[:3])) / 3
        assert (light > 128) == (scheme == "light")
