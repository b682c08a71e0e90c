"""Pairs of prompts over HTTP: equal seeds, differences of words and codes, two models, judgements."""

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from model.checkpoints.load import load
from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from pairs.judges.opening import open_judge
from pairs.judges.settings import JudgeSettings
from pairs.render import render
from pairs.scene import Group, Scene
from serve.backends.protocol import Backend
from serve.http.routes.judgements import open_images
from tests.thread_backend import ThreadBackend
from tests.tiny_vlm import save_tiny_vlm

PROMPTS = ["three red circles", "four red circles"]


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


@pytest.fixture(scope="module")
def backends(load_backend: Callable[[str], Backend]) -> tuple[Backend, Backend]:
    """Two models that differ in their guidance scale."""
    return load_backend("small"), load_backend("other")


@pytest.fixture
def client(backends: tuple[Backend, Backend], make_app: Callable[..., Any]) -> TestClient:
    return TestClient(make_app(*backends, judge="exact")[0], raise_server_exceptions=False)


def picture(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content)))


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def test_pictures_words_and_code_differences_equal_the_reference(client: TestClient, janus: Janus) -> None:
    answer = client.post("/v1/images/pairs", json={"prompts": PROMPTS, "n": 2, "seed": 7}).json()
    assert answer["seeds"] == [7, 8]
    assert [[span["text"] for span in side] for side in answer["spans"]] == [["three"], ["four"]]
    (drawn,) = answer["models"]
    codes = [generate(janus, [prompt] * 2, seeds=[7, 8]) for prompt in PROMPTS]
    for side, expected in zip(drawn["images"], codes, strict=True):
        for image, pixels in zip(side, ImageTokenizer(janus).images(expected).numpy(), strict=True):
            assert picture(image["b64_json"]).tobytes() == pixels.tobytes()
    for index, difference in enumerate(drawn["differences"]):
        differs = (codes[0][index] != codes[1][index]).view(8, 8)
        assert torch.equal(torch.tensor(difference["grid"]), differs.long())
        assert difference["share"] == pytest.approx(differs.float().mean().item())
        overlay = picture(difference["overlay_b64_json"])
        assert (overlay.mode, overlay.size) == ("RGBA", (64, 64))
        shown = torch.tensor([[overlay.getpixel((8 * x + 4, 8 * y + 4))[3] == 0 for x in range(8)] for y in range(8)])  # type: ignore[index]
        assert torch.equal(shown, differs)
    assert drawn["usage"]["output_tokens"] == 4 * 64


def test_equal_prompts_give_equal_pictures(client: TestClient) -> None:
    answer = client.post("/v1/images/pairs", json={"prompts": [PROMPTS[0]] * 2, "seed": 7}).json()
    assert answer["spans"] == [[], []]
    (drawn,) = answer["models"]
    assert drawn["images"][0] == drawn["images"][1]
    assert drawn["differences"][0]["share"] == 0


def test_two_models_side_by_side(client: TestClient) -> None:
    body = {"prompts": PROMPTS, "seed": 7}
    both = client.post("/v1/images/pairs", json=body | {"models": ["other", "small"]}).json()
    alone = client.post("/v1/images/pairs", json=body).json()
    assert [drawn["model"] for drawn in both["models"]] == ["other", "small"]
    assert both["models"][1] == alone["models"][0]
    assert both["models"][0]["images"] != both["models"][1]["images"]


def test_stream_events_name_their_place_and_give_the_same_pictures(client: TestClient) -> None:
    body = {"prompts": PROMPTS, "n": 2, "seed": 7, "models": ["small", "other"]}
    whole = client.post("/v1/images/pairs", json=body).json()
    streamed = client.post("/v1/images/pairs", json=body | {"stream": True, "partial_images": 2})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = events_of(streamed.text)
    assert events[0]["type"] == "image_pair.created"
    assert (events[0]["seeds"], events[0]["spans"]) == (whole["seeds"], whole["spans"])
    assert events[-1]["type"] == "image_pair.completed"
    assert events[-1]["usage"] == [drawn["usage"] for drawn in whole["models"]]
    places = {(model, prompt, image) for model in ("small", "other") for prompt in (0, 1) for image in (0, 1)}
    done = {
        (event["model"], event["prompt_index"], event["image_index"]): event
        for event in events
        if event["type"] == "image_pair.image"
    }
    assert set(done) == places
    for drawn in whole["models"]:
        for prompt, side in enumerate(drawn["images"]):
            for index, image in enumerate(side):
                assert done[drawn["model"], prompt, index]["b64_json"] == image["b64_json"]
        for index, difference in enumerate(drawn["differences"]):
            told = [done[drawn["model"], prompt, index]["difference"] for prompt in (0, 1)]
            assert sorted(told, key=bool) == [None, difference]
    partials = [event for event in events if event["type"] == "image_pair.partial_image"]
    for event in partials:
        assert event["seed"] == whole["seeds"][event["image_index"]]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"prompts": ["one"]}, 400, "prompts"),
        ({"prompts": ["a", "b", "c"]}, 400, "prompts"),
        ({"prompts": ["a", ""]}, 400, "prompts"),
        ({"prompts": ["a red star", "x " * 600]}, 400, "prompts"),
        ({"models": ["small", "small"]}, 400, "models"),
        ({"models": ["small", "none"]}, 400, "models"),
        ({"models": ["a", "b", "c"]}, 400, "models"),
        ({"seed": [1, 2], "n": 1}, 400, "seed"),
        ({"seed": [1] * 100_000}, 400, "seed"),
        ({"top_k": 65}, 400, "top_k"),
    ],
)
def test_bad_fields_are_named(client: TestClient, change: dict[str, Any], status: int, param: str) -> None:
    answer = client.post("/v1/images/pairs", json={"prompts": PROMPTS} | change)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_all_jobs_of_a_pair_are_accepted_or_none(janus: Janus, make_app: Callable[..., Any]) -> None:
    """The queue has room for one of the two jobs: the request is refused, and the first job's place is freed."""
    backend = ThreadBackend(janus, slots=1, queue_limit=15)
    client = TestClient(make_app(backend)[0])
    assert client.post("/v1/images/pairs", json={"prompts": PROMPTS, "n": 10}).status_code == 429
    deadline = time.monotonic() + 60
    while backend.stats.waiting or backend.stats.running:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert client.post("/v1/images/generations", json={"prompt": "a star", "n": 10}).status_code == 200
    backend.close()


def png(scene: Scene, seed: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(render(scene, seed)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_judgements_of_rendered_scenes(client: TestClient) -> None:
    three, four = (Scene((Group(count, "red", "circle"),)) for count in (3, 4))
    images = [[png(three, 1), png(four, 2)], [png(four, 3)]]
    answer = client.post("/v1/judgements", json={"prompts": PROMPTS, "images": images}).json()
    assert answer["judge"] == "exact"
    assert [[one["yes"] for one in row] for row in answer["images"]] == [[[1, 0], [0, 1]], [[0, 1]]]
    assert answer["s_a"] == pytest.approx(2 / 3)
    assert answer["s_g"] == 0


def test_a_failed_judgement_is_null_not_zero(client: TestClient) -> None:
    star = png(Scene((Group(1, "red", "star"),)), 1)
    body = {"prompts": ["a dog in Rome", "a red star"], "images": [[star], [star]]}
    answer = client.post("/v1/judgements", json=body).json()
    assert [row[0]["yes"] for row in answer["images"]] == [[None, 1.0]] * 2
    assert answer["s_a"] is answer["s_g"] is None


def test_pictures_are_judged_by_a_model_of_the_server_itself(
    backends: tuple[Backend, Backend], make_app: Callable[..., Any], tmp_path: Path
) -> None:
    """Every picture with every prompt, at its place."""
    folder = tmp_path / "tiny-vlm"
    save_tiny_vlm(folder)
    served = TestClient(make_app(*backends, judge=str(folder), judge_at_once=3)[0])
    scenes = [Scene((Group(count, "red", "circle"),)) for count in (3, 4, 5)]
    pictures = [Image.fromarray(render(scene, 1)) for scene in scenes]
    files = [png(scene, 1) for scene in scenes]
    body = {"prompts": PROMPTS, "images": [files[:2], files[2:]]}
    answer = served.post("/v1/judgements", json=body).json()
    judge = open_judge(JudgeSettings(str(folder))).judge
    expected = [[one.score for one in judge([picture] * 2, PROMPTS) if one] for picture in pictures]
    assert answer["judge"] == "tiny-vlm"
    assert [one["yes"] for row in answer["images"] for one in row] == [pytest.approx(one, abs=1e-5) for one in expected]
    assert [len(row) for row in answer["images"]] == [2, 1]
    own = [expected[0][0], expected[1][0], expected[2][1]]
    assert answer["s_a"] == pytest.approx(np.mean(own), abs=1e-5)


def png_header(side: int) -> bytes:
    """A PNG that claims to be `side` × `side` and has no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


@pytest.mark.parametrize("content", [b"GIF89a", b"\x89PNG", png_header(64), png_header(5000), png_header(200_000)])
def test_files_that_only_claim_to_be_pictures_are_refused(client: TestClient, content: bytes) -> None:
    body = {"prompts": ["a red star"], "images": [[base64.b64encode(content).decode()]]}
    answer = client.post("/v1/judgements", json=body)
    assert answer.status_code == 400
    assert "images[0][0]" in answer.json()["error"]["message"]


@pytest.mark.parametrize("image", ["%%%", ""])
def test_an_image_that_is_not_base64_of_a_picture_is_named(client: TestClient, image: str) -> None:
    star = png(Scene((Group(1, "red", "star"),)), 1)
    answer = client.post("/v1/judgements", json={"prompts": ["a red star"], "images": [[star, image]]})
    assert answer.status_code == 400
    assert "images[0][1]" in answer.json()["error"]["message"]


def test_pictures_are_bounded_together_before_any_is_decoded(client: TestClient) -> None:
    """Four of 4096 pixels a side may be judged at once, and not one pixel more."""
    sides = {side: io.BytesIO() for side in (1, 4096)}
    for side, buffer in sides.items():
        Image.new("1", (side, side)).save(buffer, format="PNG")
    small, large = (base64.b64encode(buffer.getvalue()).decode() for buffer in sides.values())
    opened = open_images({str(number): large for number in range(4)})
    assert [image.size for image in opened] == [(4096, 4096)] * 4
    answer = client.post("/v1/judgements", json={"prompts": ["a red star"], "images": [[large] * 4 + [small]]})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "images must have at most 67108864 pixels altogether"


def test_judgements_need_a_judge(backends: tuple[Backend, Backend], make_app: Callable[..., Any]) -> None:
    plain = TestClient(make_app(*backends)[0])
    answer = plain.post("/v1/judgements", json={"prompts": ["a"], "images": [[]]})
    assert answer.status_code == 400
    assert "--judge" in answer.json()["error"]["message"]
