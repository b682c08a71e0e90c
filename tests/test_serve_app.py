"""The Images API over a real model: answers, refusals, and a real server over a socket."""

import base64
import io
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor

from model.checkpoints.load import load
from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from pairs.picture_file import read_metadata
from serve.backends.protocol import Backend
from serve.backends.registry import Registry
from serve.command import main
from serve.http.planning import job_of
from serve.http.schemas import ImageRequest
from tests.thread_backend import ThreadBackend
from tests.tools import needs_compiler

IMAGES = "/v1/images/generations"
MakeApp = Callable[..., tuple[FastAPI, Registry]]
ServeOnSocket = Callable[..., Any]


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


@pytest.fixture
def client(either_backend: Backend, make_app: MakeApp) -> TestClient:
    return TestClient(make_app(either_backend)[0], raise_server_exceptions=False)


def pictures(answer: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(row["b64_json"]))) for row in answer["data"]]


def test_pictures_equal_those_of_the_reference_loop(client: TestClient, janus: Janus) -> None:
    answer = client.post(IMAGES, json={"prompt": "three red circles", "n": 2, "seed": 5}).json()
    codes = generate(janus, ["three red circles"] * 2, seeds=[5, 6])
    expected = ImageTokenizer(janus).images(codes).numpy()
    for picture, pixels, seed in zip(pictures(answer), expected, (5, 6), strict=True):
        assert picture.tobytes() == pixels.tobytes()
        made_with = json.loads(picture.text["focusdiff"])  # type: ignore[attr-defined]
        prompt = {"prompt": "three red circles"}
        assert made_with == {"model": "small", "seed": seed, **prompt, **janus.sampling.as_dict()}
    assert [row["seed"] for row in answer["data"]] == [5, 6]
    assert answer["usage"]["output_tokens"] == 2 * janus.image_tokens
    assert answer["size"] == "64x64"


def test_settings_reach_the_model(client: TestClient) -> None:
    base = {"prompt": "a blue star", "seed": 1}
    plain = client.post(IMAGES, json=base).json()["data"][0]["b64_json"]
    for change in ({"guidance_scale": 1}, {"temperature": 0}, {"negative_prompt": "a red heart"}, {"seed": 2}):
        assert client.post(IMAGES, json=base | change).json()["data"][0]["b64_json"] != plain, change


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats_carry_the_settings_that_made_them(client: TestClient, kind: str) -> None:
    body = {"prompt": 'a sign that says "Ü"', "seed": 5, "output_format": kind}
    answer = client.post(IMAGES, json=body).json()
    file = io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))
    assert answer["output_format"] == kind
    assert Image.open(file).format == kind.upper()
    made_with = read_metadata(file)
    assert made_with is not None
    assert (made_with["prompt"], made_with["seed"], made_with["model"]) == (body["prompt"], 5, "small")


@pytest.mark.parametrize(("partials", "rows"), [(0, []), (1, [4]), (2, [3, 5]), (3, [2, 4, 6]), (7, [*range(1, 8)])])
def test_previews_are_spread_evenly_over_the_rows(either_backend: Backend, partials: int, rows: list[int]) -> None:
    """Expected preview rows of a picture with eight rows of codes."""
    request = ImageRequest(prompt="a star", stream=True, partial_images=partials)
    job = job_of(request, either_backend, {"prompt": "a star"}, (1,), deadline=0.0)
    assert sorted(job.preview_rows) == rows


def test_compression_makes_files_smaller(client: TestClient) -> None:
    body = {"prompt": "a blue star", "seed": 5, "output_format": "jpeg"}
    sizes = [
        len(client.post(IMAGES, json=body | {"output_compression": quality}).json()["data"][0]["b64_json"])
        for quality in (10, 60, 100)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_random_seeds_are_returned_and_reproduce_the_pictures(client: TestClient) -> None:
    first = client.post(IMAGES, json={"prompt": "a blue star", "n": 2}).json()["data"]
    again = client.post(IMAGES, json={"prompt": "a blue star", "n": 2, "seed": [row["seed"] for row in first]}).json()
    assert [row["b64_json"] for row in again["data"]] == [row["b64_json"] for row in first]


@needs_compiler
def test_metadata_of_pictures_names_int8_weights(small_folder: Path, make_app: MakeApp) -> None:
    backend = ThreadBackend(load(small_folder, device="cpu"), quantization="int8")
    answer = TestClient(make_app(backend)[0]).post(IMAGES, json={"prompt": "a star", "seed": 1})
    settings = read_metadata(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    assert settings is not None
    assert settings["weights"] == "int8"
    backend.close()


def test_an_image_that_fails_is_named_and_the_next_request_works(
    small_backend: ThreadBackend, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = TestClient(make_app(small_backend)[0], raise_server_exceptions=False)
    decoder = small_backend.engine.decoder
    step = decoder.step

    def poison(*arguments: object) -> Tensor:
        logits: Tensor = step(*arguments)  # type: ignore[arg-type]
        logits[-1, 0] = torch.inf  # the second image's unconditional row
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "step", poison)
        answer = client.post(IMAGES, json={"prompt": "a blue star", "seed": 4, "n": 2})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.json()["error"]["message"].startswith("image 1 (seed 5): the model gave a logit")
    assert client.post(IMAGES, json={"prompt": "a blue star"}).status_code == 200


def test_a_full_queue_gives_429_with_retry_after_and_loses_no_request(
    janus: Janus, serve_on_socket: ServeOnSocket
) -> None:
    backend = ThreadBackend(janus, slots=1, queue_limit=10)
    with serve_on_socket(backend) as served, ThreadPoolExecutor(12) as pool:
        bodies = [{"prompt": "a blue star", "seed": seed, "n": 5} for seed in range(12)]
        answers = list(pool.map(lambda body: served.post(IMAGES, body), bodies))
    accepted = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(accepted) >= 2
    assert all(len(pictures(answer.json())) == 5 for answer in accepted)
    assert refused
    for answer in refused:
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 120
        assert answer.json()["error"]["type"] == "rate_limit_error"


def test_a_client_that_leaves_frees_its_slots(
    janus: Janus, serve_on_socket: ServeOnSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is idle after less than half of the steps that the ten pictures would take."""
    backend = ThreadBackend(janus, slots=1)
    engine = backend.engine
    step, steps = engine.decoder.step, 0

    def count(*arguments: object) -> Tensor:
        nonlocal steps
        steps += 1
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.decoder, "step", count)
    body = json.dumps({"prompt": "a blue star", "n": 10}).encode()
    head = f"POST {IMAGES} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with serve_on_socket(backend) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head.encode() + body)
            wait_until(lambda: not engine.idle)
        wait_until(lambda: engine.idle)
        assert steps < 10 * 63 / 2
        assert served.post(IMAGES, {"prompt": "a blue star"}).status_code == 200


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_misspelt_model_is_told_before_anything_large_is_imported() -> None:
    program = (
        "import sys; sys.argv = ['focusdiff-serve', '--model', 'tiny', '--model', 'tinny']\n"
        "from serve.command import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, *(m for m in ('torch', 'fastapi', 'multiprocessing') if m in sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout == "2\n"
    assert ended.stderr.startswith("error: no model 'tinny'")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "no-such-model"], "no model 'no-such-model'"),
        (["--model", "{small}", "--device", "cuda:77"], "no device 'cuda:77'"),
        (["--model", "{small}", "--port", "70000"], "port: Input should be less"),
        (["--model", "{small}", "--slots", "0"], "slots: Input should be greater than or equal to 1"),
        (["--model", "{small}", "--queue", "5"], "queue: Input should be greater than or equal to 20"),
        (["--model", "{bare}"], "bare has no tokenizer; name one with --tokenizer"),
        (["--model", "{bare}", "--tokenizer", "{bare}"], "no tokenizer.json"),
    ],
)
def test_settings_that_cannot_be_served_are_one_line_and_exit_code_2(
    tmp_path: Path,
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(small_folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    filled = [argument.format(small=small_folder, bare=bare) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["focusdiff-serve", "--no-ui", *filled])
    monkeypatch.setattr("serve.logs.set_up_logging", lambda **_: None)  # keep the logging of the test's own process
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert said in line
