"""AUTOMATIC1111's interface, as Open WebUI, SillyTavern and LibreChat call it."""

import base64
import io
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pairs.picture_file import read_metadata
from serve.backends.protocol import Backend
from tests.thread_backend import ThreadBackend

TXT2IMG = "/sdapi/v1/txt2img"
MakeApp = Callable[..., Any]
# SillyTavern 1.19's default request, with the fields that it fills in itself
SILLYTAVERN = {
    "url": "http://127.0.0.1:8000", "auth": "me:secret-password", "prompt": "a red star", "negative_prompt": "",
    "sampler_name": "DDIM", "scheduler": "normal", "steps": 20, "cfg_scale": 7, "width": 512, "height": 512,
    "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 1, "hr_additional_modules": [],
    "denoising_strength": 0.7, "hr_second_pass_steps": 0, "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True, "clip_skip": 1, "save_images": True, "send_images": True,
    "do_not_save_grid": False, "do_not_save_samples": False,
}  # fmt: skip
LIBRECHAT = {
    "prompt": "a red star", "negative_prompt": "blue", "sampler_index": "DPM++ 2M Karras", "cfg_scale": 4.5, "steps": 22,
    "width": 1024, "height": 1024,
}  # fmt: skip
OPEN_WEBUI = {"prompt": "a red star", "batch_size": 1, "width": 512, "height": 512, "steps": 50}
SDCPP = {"model": "", "prompt": "a red star", "negative_prompt": "x", "width": 512, "height": 512, "batch_size": 1}


@pytest.fixture
def client(either_backend: Backend, make_app: MakeApp) -> TestClient:
    return TestClient(make_app(either_backend)[0], raise_server_exceptions=False)


def file_of(image: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(image, validate=True))


@pytest.mark.parametrize("body", [SILLYTAVERN, LIBRECHAT, OPEN_WEBUI, SDCPP])
def test_the_default_request_of_a_front_end_gets_its_picture(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post(TXT2IMG, json=body)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    (image,) = content["images"]
    assert Image.open(file_of(image)).size == (body["width"], body["height"])
    info = json.loads(content["info"])
    assert (info["width"], info["height"]) == (body["width"], body["height"])
    assert info["all_seeds"] == [info["seed"]]
    assert info["infotexts"][0].splitlines()[-1].startswith("Steps: 64, Sampler: Autoregressive, CFG scale: ")
    made_with = read_metadata(file_of(image))
    assert made_with is not None
    assert (made_with["seed"], made_with["guidance_scale"]) == (info["seed"], info["cfg_scale"])


def test_pictures_equal_those_of_the_images_api(client: TestClient) -> None:
    fields = {"prompt": "a red star", "seed": 5, "n": 2, "guidance_scale": 3, "negative_prompt": "blue"}
    plain = client.post("/v1/images/generations", json=fields).json()
    body = {"prompt": "a red star", "seed": 5, "n_iter": 2, "cfg_scale": 3, "negative_prompt": "blue"}
    answer = client.post(TXT2IMG, json=body).json()
    assert answer["images"] == [entry["b64_json"] for entry in plain["data"]]
    assert json.loads(answer["info"])["all_seeds"] == [5, 6]


@pytest.mark.parametrize(("cfg_scale", "guidance"), [(7, None), (None, None), (7.5, 7.5), (0, 1), (30, 20)])
def test_the_default_cfg_scale_means_the_models_own(
    client: TestClient, either_backend: Backend, cfg_scale: float | None, guidance: float | None
) -> None:
    answer = client.post(TXT2IMG, json={"prompt": "a star", "seed": 1, "cfg_scale": cfg_scale}).json()
    expected = either_backend.info.sampling.guidance_scale if guidance is None else guidance
    assert expected != 7
    assert json.loads(answer["info"])["cfg_scale"] == expected


def test_a_password_in_the_body_is_neither_echoed_nor_logged(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = client.post(TXT2IMG, json=SILLYTAVERN)
    assert "secret-password" not in answer.text
    assert "secret-password" not in caplog.text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 4, "n_iter": 3}, "batch_size × n_iter must be at most 10, not 12"),
        ({"batch_size": 0}, "batch_size"),
        ({"width": 4096}, "width"),
        ({"height": 8}, "height"),
        ({"seed": -2}, "seed"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "red " * 500}, "prompt"),
    ],
)
def test_refusals_name_the_field_in_the_web_uis_format(client: TestClient, change: dict[str, Any], named: str) -> None:
    answer = client.post(TXT2IMG, json={"prompt": "a star"} | change)
    assert answer.status_code == 400
    content = answer.json()
    assert named in content["detail"]
    assert set(content) == {"error", "detail", "body", "errors"}
    assert content["error"] == "InvalidRequest"


def test_img2img_is_refused_with_the_reason(client: TestClient) -> None:
    answer = client.post("/sdapi/v1/img2img", json={"init_images": ["x"], "prompt": "a star"})
    assert answer.status_code == 400
    assert "cannot change one" in answer.json()["detail"]


def test_what_front_ends_ask_for_before_they_draw(client: TestClient) -> None:
    """SillyTavern fills its lists from these, by the names below."""
    (model,) = client.get("/sdapi/v1/sd-models").json()
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == model["title"] == "small"
    for path in ("samplers", "schedulers", "upscalers", "latent-upscale-modes"):
        listed = client.get(f"/sdapi/v1/{path}").json()
        assert all(isinstance(entry["name"], str) for entry in listed)
        assert listed
    assert client.get("/sdapi/v1/upscalers").json()[0]["name"] == "None"
    assert client.get("/sdapi/v1/sd-vae").json() == []
    ram = client.get("/sdapi/v1/memory").json()["ram"]
    assert 0 < ram["used"] == ram["total"] - ram["free"]
    assert client.post("/sdapi/v1/refresh-checkpoints").status_code == 200
    # Open WebUI sends all options back; its base URL may end in a slash
    options = client.get("http://testserver//sdapi/v1/options").json()
    assert (
        client.post("http://testserver//sdapi/v1/options", json=options | {"sd_model_checkpoint": ""}).status_code
        == 200
    )


def test_each_caller_has_a_model_of_their_own(load_backend: Callable[[str], Backend], make_app: MakeApp) -> None:
    app = make_app(load_backend("small"), load_backend("other"), api_keys="one,two")[0]
    one, two = (TestClient(app, headers={"authorization": f"Bearer {key}"}) for key in ("one", "two"))
    assert two.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other"}).json() is None
    assert one.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "small"
    assert two.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "other"
    drawn = [
        json.loads(client.post(TXT2IMG, json={"prompt": "a star", **more}).json()["info"])["sd_model_name"]
        for client, more in (
            (one, {}),
            (two, {}),
            (two, {"override_settings": {"sd_model_checkpoint": "small"}}),
            (one, {"model": "other"}),
            (two, {"override_settings": {"sd_model_checkpoint": "unknown"}}),
        )
    ]
    assert drawn == ["small", "other", "small", "other", "other"]
    refused = two.post("/sdapi/v1/options", json={"sd_model_checkpoint": "none"})
    assert refused.status_code == 400
    assert "no model 'none' here; known: small, other" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer right"}, 200),
        ({"authorization": "Basic " + base64.b64encode(b"anyone:right").decode()}, 200),
        ({"api-key": "right"}, 200),
        ({"authorization": "Basic " + base64.b64encode(b"right:wrong").decode()}, 401),
        ({"authorization": "Basic "}, 401),
        ({"authorization": "Basic ***"}, 401),
        ({}, 401),
    ],
)
def test_keys_are_needed_here_too(
    either_backend: Backend, make_app: MakeApp, headers: dict[str, str], status: int
) -> None:
    client = TestClient(make_app(either_backend, api_keys="right")[0])
    for path in ("/sdapi/v1/options", "http://testserver//sdapi//v1/options", "/v1/models"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status, path
        if status == 401:
            assert answer.headers["www-authenticate"] == ("Bearer" if path == "/v1/models" else "Basic")


def test_without_keys_an_empty_password_is_no_hindrance(client: TestClient) -> None:
    """Open WebUI's default."""
    assert client.get("/sdapi/v1/options", headers={"authorization": "Basic "}).status_code == 200


def test_it_can_be_switched_off(either_backend: Backend, make_app: MakeApp) -> None:
    client = TestClient(make_app(either_backend, a1111=False)[0])
    assert client.post(TXT2IMG, json=OPEN_WEBUI).status_code == 404


def test_rate_limits_hold_here_too(either_backend: Backend, make_app: MakeApp) -> None:
    client = TestClient(make_app(either_backend, rate_limit="3/minute")[0])
    assert client.post(TXT2IMG, json=OPEN_WEBUI | {"batch_size": 3}).status_code == 200
    refused = client.post(TXT2IMG, json=OPEN_WEBUI)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0


def test_progress_and_interruption(
    small_backend: ThreadBackend, serve_on_socket: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is held after 40 of 64 steps: previews are there, and an interruption answers with them."""
    steps, held = 0, threading.Event()
    step = small_backend.engine.step

    def hold() -> Any:
        nonlocal steps
        steps += 1
        if steps == 40:
            held.wait(60)
        return step()

    monkeypatch.setattr(small_backend.engine, "step", hold)
    with (
        serve_on_socket(small_backend) as served,
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        idle = client.get("/sdapi/v1/progress").json()
        assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0, 0, None)
        answering = pool.submit(client.post, TXT2IMG, json={"prompt": "a star", "batch_size": 2, "seed": 3})
        while not (seen := client.get("/sdapi/v1/progress").json())["current_image"]:
            assert not answering.done()
            time.sleep(0.01)
        while steps < 40:
            time.sleep(0.01)
        seen = client.get("/sdapi/v1/progress").json()
        assert 0 < seen["progress"] < 1
        assert seen["state"]["job_count"] == 2
        assert seen["eta_relative"] > 0
        assert Image.open(file_of(seen["current_image"])).size == (64, 64)
        assert client.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
        assert client.post("/sdapi/v1/interrupt").json() == {}
        answer = answering.result(60).json()
        held.set()
        assert 1 <= len(answer["images"]) <= 2
        assert json.loads(answer["info"])["all_seeds"] == [3, 4][: len(answer["images"])]
        after = client.get("/sdapi/v1/progress").json()
        assert (after["progress"], after["state"]["job_count"]) == (0, 0)
