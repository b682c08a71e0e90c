"""The Images API over a real model: answers, refusals, and a real server over a socket."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from bench.speed import free_port
from model.checkpoint import load
from model.generate import generate
from model.janus import Janus
from model.params import MAX_SEED
from model.vq import decode_images
from serve.app import create_app
from serve.backend import Job, LocalBackend

URL = "/v1/images/generations"


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


@pytest.fixture(scope="module")
def backend(janus: Janus) -> Iterator[LocalBackend]:
    backend = LocalBackend(janus)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def client(backend: LocalBackend) -> TestClient:
    return TestClient(create_app(backend), raise_server_exceptions=False)


def pictures(answer: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(row["b64_json"]))) for row in answer["data"]]


def test_pictures_are_those_of_the_reference_loop(client: TestClient, janus: Janus) -> None:
    answer = client.post(URL, json={"prompt": "three red circles", "n": 2, "seed": 5}).json()
    codes = generate(janus, ["three red circles"] * 2, seeds=[5, 6])
    expected = decode_images(janus, codes).numpy()
    for picture, pixels, seed in zip(pictures(answer), expected, (5, 6), strict=True):
        assert picture.tobytes() == pixels.tobytes()
        made_with = json.loads(picture.text["focusdiff"])  # type: ignore[attr-defined]
        prompt = {"prompt": "three red circles"}
        assert made_with == {"model": "small", "seed": seed, **prompt, **janus.recipe.as_dict()}
    assert [row["seed"] for row in answer["data"]] == [5, 6]
    assert answer["usage"]["output_tokens"] == 2 * janus.image_tokens
    assert answer["size"] == "64x64"


def test_settings_reach_the_model(client: TestClient) -> None:
    base = {"prompt": "a blue star", "seed": 1}
    plain = client.post(URL, json=base).json()["data"][0]["b64_json"]
    for change in ({"guidance_scale": 1}, {"temperature": 0}, {"negative_prompt": "a red heart"}, {"seed": 2}):
        assert client.post(URL, json=base | change).json()["data"][0]["b64_json"] != plain, change


def test_random_seeds_come_back_and_reproduce(client: TestClient) -> None:
    first = client.post(URL, json={"prompt": "a blue star", "n": 2}).json()["data"]
    again = client.post(URL, json={"prompt": "a blue star", "n": 2, "seed": [row["seed"] for row in first]}).json()
    assert [row["b64_json"] for row in again["data"]] == [row["b64_json"] for row in first]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "  \n"}, 400, "prompt"),
        ({"prompt": "red " * 500}, 400, "prompt"),
        ({"prompt": "x" * 5000}, 400, "prompt"),
        ({"prompt": 3}, 400, "prompt"),
        ({"prompt": None}, 400, "prompt"),
        ({"n": 0}, 400, "n"),
        ({"n": 11}, 400, "n"),
        ({"n": "two"}, 400, "n"),
        ({"model": "dall-e-3"}, 404, "model"),
        ({"size": "1024x1024"}, 400, "size"),
        ({"response_format": "url"}, 400, "response_format"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": MAX_SEED, "n": 2}, 400, "seed"),
        ({"seed": [1, 2, 3]}, 400, "seed"),
        ({"seed": "seven"}, 400, "seed"),
        ({"seed": [1.5]}, 400, "seed"),
        ({"guidance_scale": 0.5}, 400, "guidance_scale"),
        ({"temperature": 3}, 400, "temperature"),
        ({"top_k": -1}, 400, "top_k"),
        ({"top_p": 0}, 400, "top_p"),
        ({"negative_prompt": " "}, 400, "negative_prompt"),
        ({"steps": 30}, 400, "steps"),
    ],
)
def test_bad_fields_are_named(client: TestClient, change: dict[str, Any], status: int, param: str) -> None:
    answer = client.post(URL, json={"prompt": "a blue star"} | change)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if param == "model":
        assert "small" in error["message"]


def test_lone_surrogates_and_broken_json_are_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    for body in (b'{"prompt": "\\ud800"}', b'{"prompt": ', b"\xff\xfe", b"[]", b"null"):
        answer = client.post(URL, content=body, headers=headers)
        assert answer.status_code == 400, body
        assert answer.json()["error"]["message"]


def test_unknown_paths_answer_in_the_same_shape(client: TestClient) -> None:
    answer = client.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_failure_in_the_model_is_a_500_with_a_reason_and_the_next_request_works(
    client: TestClient, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Job) -> list[Image.Image]:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_generate", broken)
        answer = client.post(URL, json={"prompt": "a blue star"})
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
    assert client.post(URL, json={"prompt": "a blue star"}).status_code == 200


def post(port: int, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{URL}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: dict[str, Any] = json.load(answer)
        return content


def test_a_real_server(small_folder: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "serve.command", "--model", str(small_folder), "--port", str(port)]
    server = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as health:
                    assert json.load(health) == {"status": "ok", "model": "small"}
                    break
            except urllib.error.URLError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        answer = post(port, {"prompt": "two green hearts", "seed": 3, "n": 2})
        assert [picture.size for picture in pictures(answer)] == [(64, 64)] * 2
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=30)
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "no-such-model"], "no model 'no-such-model'"),
        (["--model", "{small}", "--device", "cuda:77"], "no device 'cuda:77'"),
        (["--model", "{small}", "--port", "70000"], "--port must be"),
        (["--model", "{bare}"], "bare has no tokenizer; name one with --tokenizer"),
        (["--model", "{bare}", "--tokenizer", "{bare}"], "no tokenizer.json"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_code_2(
    tmp_path: Path, small_folder: Path, arguments: list[str], said: str
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(small_folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    command = [sys.executable, "-m", "serve.command", *(a.format(small=small_folder, bare=bare) for a in arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1, result.stderr
    assert said in result.stderr
