"""The page's parts: marked words, links, examples, and the board that shows events."""

import json
import re

import pytest
from gradio.utils import diff

from pairs.words import contrast, marked
from ui.board import Board
from ui.examples import examples
from ui.settings import Comparison


def test_differing_words_are_marked_and_prompts_are_escaped() -> None:
    first, second = marked("<b>three</b> stars & more", "<b>four</b> stars & more")
    assert first == "&lt;b&gt;<mark>three</mark>&lt;/b&gt; stars &amp; more"
    assert "<mark>four</mark>" in second


@pytest.mark.parametrize(
    "comparison",
    [
        Comparison("a", "b"),
        Comparison('a "sign" & 50 %', "ein Größerer", ("tiny-base", "tiny"), 4, 7, 2.5, 0.0, 100, 0.9, "blur"),
    ],
)
def test_a_link_carries_every_setting(comparison: Comparison) -> None:
    from urllib.parse import parse_qsl

    assert Comparison.from_query(dict(parse_qsl(comparison.query))) == comparison


@pytest.mark.parametrize(
    "query", [{}, {"first": "not json"}, {"first": '"a"'}, {"first": '"a"', "second": '"b"', "models": "3"}]
)
def test_malformed_links_are_ignored(query: dict[str, str]) -> None:
    assert Comparison.from_query(query) is None


def test_empty_settings_are_left_to_the_model() -> None:
    assert Comparison("a", "b", n=1).request == {"prompts": ["a", "b"], "n": 1}
    assert Comparison("a", "b", temperature=0.0, top_k=0).request["temperature"] == 0
    assert Comparison("a", "b", temperature=0.0, top_k=0).request["top_k"] == 0


def board() -> Board:
    created = {"type": "image_pair.created", "models": ["m<1>"], "seeds": [4, 5], "prompts": ["a", "b"]}
    return Board.begin(created, rows=8)


def picture(prompt: int, image: int, **more: object) -> dict[str, object]:
    place = {"model": "m<1>", "prompt_index": prompt, "image_index": image, "seed": 4 + image}
    return {"type": "image_pair.image", **place, "b64_json": f"P{prompt}{image}", "output_format": "png", **more}


def test_a_board_fills_with_pictures_and_reports_its_progress() -> None:
    one = board()
    assert one.progress == 0
    assert "".join(one.html()).count("not begun") == 4
    one.update({**picture(0, 0, rows=2), "type": "image_pair.partial_image", "b64_json": "half"})
    assert one.progress == 2 / 32
    assert 'data-state="row 2 of 8"' in "".join(one.html())
    for prompt in (0, 1):
        for image in (0, 1):
            difference = {"share": 0.25, "overlay_b64_json": f"O{image}"} if prompt else None
            one.update(picture(prompt, image, difference=difference))
    assert one.progress == 1
    assert one.finished("m<1>") == [["P00", "P01"], ["P10", "P11"]]
    html = "".join(one.html())
    assert "m&lt;1&gt;" in html
    assert "m<1>" not in html
    assert re.findall(r"base64,(P\d\d)", html) == ["P00", "P10", "P01", "P11"]  # one line of pictures per seed
    assert html.count("25% of the codes differ") == 2
    assert html.count('class="overlay"') == 4


def test_judgements_are_shown_with_their_means() -> None:
    one = board()
    one.judge("m<1>", [[[1.0, 0.0], [0.25, 0.5]], [[0.0, 1.0], [None, 1.0]]])
    html = "".join(one.html())
    assert "s<sub>a</sub> 1.00, s<sub>g</sub> 1.00" in html
    assert "s<sub>a</sub> 0.62, s<sub>g</sub> 0.50" in html
    assert "–" in html


def test_there_are_examples_of_every_category() -> None:
    found = examples()
    assert {one.category for one in found} == {"appearance", "colour", "counting", "position", "style", "text"}
    assert all(one.first != one.second for one in found)
    # buttons cut off longer labels
    assert max(len(f"{one.category}: {contrast(one.first, one.second)}") for one in found) <= 60


def test_a_contrast_is_one_line() -> None:
    assert contrast("three red circles", "four red circles") == "three → four red circles"
    assert contrast("a cat left of a dog", "a cat right of a dog") == "a cat left → right of a dog"
    assert contrast("a cat and a dog", "a dog and a cat") == "a cat and a dog / a dog and a cat"
    assert contrast("a cat", "a cat at night") == "a cat / a cat at night"


def test_an_update_carries_only_the_pictures_that_changed() -> None:
    """Measured by the diff that Gradio sends between two values of a generator (the last one is also sent whole)."""
    one = board()
    before = one.html()
    sent = ""
    for prompt in (0, 1):
        for image in (0, 1):
            one.update(picture(prompt, image) | {"b64_json": "P" * 90_000})
            after = one.html()
            sent += json.dumps(diff(before, after))  # type: ignore[no-untyped-call]
            before = after
    assert sent.count("P" * 90_000) == 4
    one.judge("m<1>", [[[1.0, 0.0], [0.25, 0.5]], [[0.0, 1.0], [None, 1.0]]])
    assert "PPP" not in json.dumps(diff(before, one.html()))  # type: ignore[no-untyped-call]
    assert len("".join(one.html())) > 4 * 90_000
