"""The demo in a real browser, against a real server with the shipped models."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from bench.speed.server_process import free_port
from tests.browser import (
    SECONDS,
    browser,
    done,
    draw,
    levels,
    pictures,
    server,
    set_setting,
    shot,
    url,
    visit,
)
from tests.tools import needs_browser

pytestmark = needs_browser
__all__ = ["browser", "url"]  # fixtures


def test_input_typed_before_the_page_is_ready_is_kept(browser: Browser, url: str) -> None:
    """The names of the models arrive after prompts and settings have been typed, and must not overwrite them."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.locator("#left textarea, #left input").fill("two green stars")
    page.locator("#right textarea, #right input").fill("two green hearts")
    set_setting(page, "seed", "17")
    set_setting(page, "guidance", "4")
    expect(page.locator("#below input")).to_have_value("tiny", timeout=SECONDS)
    page.wait_for_timeout(1500)
    assert page.locator("#seed input, #seed textarea").input_value() == "17"
    assert page.locator("#guidance input, #guidance textarea").input_value() == "4"
    assert page.locator("#left textarea, #left input").input_value() == "two green stars"
    assert page.locator("#right textarea, #right input").input_value() == "two green hearts"
    context.close()


def test_the_api_documentation_page_opens_and_sends_a_request(browser: Browser, url: str) -> None:
    """Swagger's page loads from this server alone; a request sent from it gets an answer, which it shows."""
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


def test_an_example_is_on_the_page_before_anything_is_drawn(browser: Browser, url: str) -> None:
    """One pair of both models, the same for every visitor and drawn once; not on a page opened by a link."""
    shown = []
    for _ in range(2):
        with visit(browser, url, viewport={"width": 1280, "height": 900}) as page:
            expect(page.locator("#status")).to_contain_text("An example.", timeout=SECONDS)
            expect(page.locator("#board .judged")).to_have_count(2)  # the last that is filled in
            assert page.locator("#board .model h3").all_inner_texts() == ["tiny-base", "tiny"]
            shown.append(pictures(page))
            widths = page.locator("#board .picture").evaluate_all("all => all.map(one => one.clientWidth)")
            assert min(widths) > 400
            shot(page, "first", full=False)
    assert len(shown[0]) == 4
    assert shown[0] == shown[1]
    with visit(browser, f"{url}/?first=%22a+star%22&second=%22a+heart%22&n=1&seed=1") as page:
        page.wait_for_timeout(1500)
        assert pictures(page) == []


def test_typing_marks_the_words_that_differ(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        page.locator("#left textarea, #left input").fill("a red heart above a blue star")
        page.locator("#right textarea, #right input").press_sequentially(" x")
        page.locator("#right textarea, #right input").fill("a red heart below a blue star")
        expect(page.locator("#difference mark").first).to_have_text("above", timeout=SECONDS)
        assert page.locator("#difference mark").all_inner_texts() == ["above", "below"]


@contextmanager
def slowly(url: str) -> Iterator[None]:
    """Let the engines of a server run for 20 ms at a time, with pauses in which a page shows what has come."""
    port = url.rpartition(":")[2]
    (server,) = (one for one in psutil.Process().children() if port in one.cmdline())
    engines = [one for one in server.children() if "spawn_main" in " ".join(one.cmdline())]
    over = threading.Event()

    def pause() -> None:
        while not over.is_set():
            for engine in engines:
                engine.suspend()
            over.wait(0.5)
            for engine in engines:
                engine.resume()
            over.wait(0.02)

    thread = threading.Thread(target=pause)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_two_models_two_prompts_previews_judgements_and_overlay(browser: Browser, url: str) -> None:
    with visit(browser, url, viewport={"width": 1100, "height": 1680}) as page:
        page.evaluate(
            """() => {
                window.states = new Set();
                new MutationObserver(() => document.querySelectorAll('#board .picture').forEach(
                    one => window.states.add(one.dataset.state))).observe(document.body, {childList: true, subtree: true});
            }"""
        )
        set_setting(page, "seed", "7")
        with slowly(url):
            draw(page, "three red circles", "four red circles")
            page.wait_for_function(
                "() => [...window.states].some(state => String(state).startsWith('row '))", timeout=SECONDS
            )
        done(page)
        assert len(pictures(page)) == 8  # two models, two seeds, two prompts
        assert page.locator("#board .model h3").all_inner_texts() == ["tiny-base", "tiny"]
        assert "done" in page.evaluate("() => [...window.states]")
        facts = page.locator('#board .model[aria-label="tiny"] .facts').first.inner_text()
        assert re.search(r"seed 7\n", facts)
        assert re.search(r"\d+% of the codes differ", facts)
        assert re.search(r"s.?a.? \d\.\d\d, s.?g.? \d\.\d\d", facts.replace("\n", " "))
        shot(page, "demo", full=False)
        overlay = page.locator("#board .overlay").first
        expect(overlay).to_be_hidden()
        page.locator("#overlay input").check()
        expect(overlay).to_be_visible()
        shot(page, "overlay", full=False)
        page.locator("#overlay input").uncheck()
        expect(overlay).to_be_hidden()


def test_stop_cancels_on_the_server(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        page.locator("#settings button").first.click()
        page.locator("#count input").first.fill("4")
        page.locator("#sweep").click()
        expect(page.locator("#board .sweep img").first).to_be_visible(timeout=SECONDS)
        page.locator("#stop").click()
        expect(page.locator("#status")).to_contain_text("Stopped", timeout=SECONDS)
        deadline = time.monotonic() + SECONDS / 1000
        while re.search(
            r'focusdiff_(running|waiting)_images\{model="tiny\S*"\} [1-9]', httpx.get(f"{url}/metrics", timeout=60).text
        ):
            assert time.monotonic() < deadline
        before = httpx.get(f"{url}/metrics", timeout=60).text
        time.sleep(1)
        after = httpx.get(f"{url}/metrics", timeout=60).text
        count = re.compile(r'focusdiff_images_total\{model="tiny"\} (\S+)')
        assert count.findall(before) == count.findall(after)  # the sweep does not continue in the background


def test_a_sweep_shows_five_guidance_scales_of_one_seed(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        set_setting(page, "seed", "3")
        page.locator("#sweep").click()
        done(page)
        shot(page, "sweep")
        headings = page.locator("#board .sweep h2").all_inner_texts()
        assert headings == [f"guidance {scale}" for scale in (1, 2, 3, 5, 8)]
        assert len(pictures(page)) == 5 * 2 * 2
        assert set(re.findall(r"seed (\d+)", page.locator("#board").inner_text())) == {"3"}


def test_a_link_gives_the_same_pictures_in_a_fresh_browser(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        set_setting(page, "guidance", "1.5")
        set_setting(page, "top_k", "300")
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
        again = pictures(page)
        assert len(again) == len(drawn) == 8
        for one, other in zip(drawn, again, strict=True):  # a pixel may differ by one level with the decoded batch
            assert np.abs(levels(one) - levels(other)).max() <= 1
        page.locator("#settings button").first.click()
        for name, value in (("guidance", "1.5"), ("top_k", "300"), ("temperature", "")):
            expect(page.locator(f"#{name} input, #{name} textarea")).to_have_value(value)


def test_empty_settings_show_the_models_own_values(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        sampling = httpx.get(f"{url}/v1/models").json()["data"][0]["sampling"]
        page.locator("#settings button").first.click()
        for name, field in (("guidance", "guidance_scale"), ("top_p", "top_p"), ("temperature", "temperature")):
            box = page.locator(f"#{name} input, #{name} textarea")
            expect(box).to_have_attribute("placeholder", f"{sampling[field]:g}", timeout=SECONDS)
            assert box.input_value() == ""


def test_a_pair_of_paircomp_is_found_and_drawn(browser: Browser, url: str) -> None:
    """Cases are found page by page, by category, by words and by number, and chosen with the keyboard."""
    with visit(browser, url) as page:
        page.locator("#paircomp button").first.click()
        found, listed = page.locator("#paircomp-found"), page.locator("#paircomp-cases label")
        expect(found).to_contain_text("1 to 10 of 37", timeout=SECONDS)
        expect(listed).to_have_count(10)
        expect(page.locator("#paircomp-back")).to_be_disabled()
        for cases in ("11 to 20", "21 to 30", "31 to 37"):
            page.locator("#paircomp-on").click()
            expect(found).to_contain_text(f"{cases} of 37", timeout=SECONDS)
        expect(page.locator("#paircomp-on")).to_be_disabled(timeout=SECONDS)
        page.locator("#paircomp-back").click()
        expect(found).to_contain_text("21 to 30 of 37", timeout=SECONDS)
        page.locator("#paircomp-category input").click()
        page.get_by_role("option", name="text").click()
        expect(found).to_contain_text("1 to 6 of 6", timeout=SECONDS)
        shot(page, "paircomp")
        words = page.locator("#paircomp-words input, #paircomp-words textarea")
        words.fill("no such words")
        expect(found).to_contain_text("No pair has that.", timeout=SECONDS)
        words.fill("31")
        expect(found).to_contain_text("1 to 1 of 1", timeout=SECONDS)
        expect(listed).to_have_count(1)
        label = listed.first.inner_text()
        listed.first.locator("input").press("Space")
        left, right = page.locator("#left textarea, #left input"), page.locator("#right textarea, #right input")
        expect(left).not_to_have_value("three red circles", timeout=SECONDS)
        assert label == f"31 · text: {left.input_value()} / {right.input_value()}"
        page.locator("#draw").click()
        done(page)


def test_blind_votes_are_counted_and_exported(browser: Browser, url: str) -> None:
    """The board does not name the models before the vote; afterwards rates and export contain the vote."""
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
        shot(page, "blind")
        said = page.locator("#blind-status").inner_text()
        with page.expect_download() as download:
            page.locator("#votes-jsonl").click()
        votes = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
        assert len(votes) == 2
        assert said == f"Thank you. A was {votes[1]['first']}, B was {votes[1]['second']}."


def test_errors_are_shown_as_sentences(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        draw(page, "", "a star")
        expect(page.locator("#status .error")).to_contain_text("rompt", timeout=SECONDS)
        for name, wrong, said in (
            ("guidance", "much", "Guidance must be a number, not 'much'."),
            ("seed", "1.5", "Seed must be a whole number, not '1.5'."),
            ("guidance", "21", "uidance_scale: Input should be less than or equal to 20"),
        ):
            set_setting(page, name, wrong)
            draw(page, "a red star", "a blue star")
            expect(page.locator("#status .error")).to_contain_text(said, timeout=SECONDS)
            set_setting(page, name, "")
        draw(page, "red " * 400, "a star")
        expect(page.locator("#status .error")).to_contain_text("tokens", timeout=SECONDS)
        draw(page, "a red star", "a blue star")
        done(page)


def test_a_waiting_user_sees_the_queue_and_the_estimated_wait(browser: Browser, url: str) -> None:
    body = {"prompt": "two green stars", "n": 10, "model": "tiny"}
    with visit(browser, url) as page, ThreadPoolExecutor(20) as pool:
        busy = [pool.submit(httpx.post, f"{url}/v1/images/generations", json=body, timeout=120) for _ in range(20)]
        hundred = re.compile(r'waiting_images\{model="tiny"\} 1\d\d\.')
        while not hundred.search(httpx.get(f"{url}/metrics", timeout=60).text):
            assert not all(one.done() for one in busy)
            time.sleep(0.01)
        page.locator("#draw").click()
        expect(page.locator("#status")).to_contain_text("pictures are before yours: about", timeout=SECONDS)
        # tests/test_serve_step_times.py checks how accurate the estimate is, with its own clock
        said = re.findall(r"(\d+) pictures are before yours: about (\d+) s", page.locator("#status").inner_text())
        assert int(said[0][0]) > 0
        assert {one.result().status_code for one in busy} == {200}
        done(page)


def test_two_browsers_at_once_do_not_mix(browser: Browser, url: str) -> None:
    with visit(browser, url) as one, visit(browser, url) as other:
        for page, seed in ((one, "1"), (other, "2")):
            set_setting(page, "seed", seed)
        draw(one, "a red star", "a blue star")
        draw(other, "a green heart", "a purple heart")
        done(one)
        done(other)
        assert set(re.findall(r"seed (\d+)", one.locator("#board").inner_text())) == {"1", "2"}
        assert set(re.findall(r"seed (\d+)", other.locator("#board").inner_text())) == {"2", "3"}
        assert not set(pictures(one)) & set(pictures(other))


def test_the_demo_survives_a_restart_of_the_server_which_then_asks_for_a_key(browser: Browser) -> None:
    """The demo runs in its own process; the server is stopped, and started again with a key and a page of its own."""
    port, ui_port = free_port(), free_port()
    address, own = f"http://127.0.0.1:{ui_port}", f"http://127.0.0.1:{port}"
    demo = subprocess.Popen([sys.executable, "-m", "ui.command", "--server", own, "--port", str(ui_port)])

    def enter_key(page: Page) -> None:
        expect(page.locator("#status .error")).to_contain_text("key", timeout=SECONDS)
        page.locator("#settings button").first.click()
        page.locator("#key input").fill("sk-right")
        page.locator("#key input").press("Enter")
        expect(page.locator("#below input")).to_have_value("tiny", timeout=SECONDS)
        page.locator("#draw").click()
        done(page)

    try:
        with browser.new_context() as before, browser.new_context() as after:
            page = before.new_page()
            with server(port, "--no-ui"):
                deadline = time.monotonic() + 60
                while True:
                    assert time.monotonic() < deadline
                    try:
                        httpx.get(address)
                        break
                    except httpx.TransportError:
                        time.sleep(0.1)
                page.goto(address)
                expect(page.locator("#below input")).to_have_value("tiny", timeout=SECONDS)
            draw(page, "a red star", "a blue star")
            expect(page.locator("#status .error")).to_contain_text("does not answer", timeout=SECONDS)
            with server(port, "--api-keys", "sk-right"):
                page.locator("#draw").click()
                enter_key(page)
                fresh = after.new_page()
                fresh.goto(own)
                enter_key(fresh)
    finally:
        demo.kill()
        demo.wait()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_follows_the_colour_scheme(browser: Browser, url: str, scheme: str) -> None:
    look = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme}
    with visit(browser, url, **look) as page:
        page.locator("#draw").press("Enter")  # with the keyboard
        done(page)
        shot(page, f"phone-{scheme}", full=False)
        wide = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", str(background))[:3])) / 3
        assert (light > 128) == (scheme == "light")
