"""Refusals of fields, bodies, methods and paths, all in OpenAI's error format."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient

from model.params import MAX_SEED
from serve.backends.protocol import Backend
from serve.backends.registry import Registry

IMAGES = "/v1/images/generations"
MakeApp = Callable[..., tuple[FastAPI, Registry]]


@pytest.fixture
def client(either_backend: Backend, make_app: MakeApp) -> TestClient:
    return TestClient(make_app(either_backend)[0], raise_server_exceptions=False)


def test_edits_and_variations_are_refused_with_the_reason(client: TestClient) -> None:
    for path in ("edits", "variations"):
        answer = client.post(f"/v1/images/{path}", files={"image": b"x"}, data={"prompt": "y"})
        assert answer.status_code == 400
        assert "cannot change one" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "  \n"}, 400, "prompt"),
        ({"prompt": "red " * 500}, 400, "prompt"),
        ({"prompt": "x" * 5000}, 400, "prompt"),
        ({"prompt": 3}, 400, "prompt"),
        ({"prompt": None}, 400, "prompt"),
        ({"model": "invalid-model"}, 400, "model"),
        ({"n": 0}, 400, "n"),
        ({"n": 11}, 400, "n"),
        ({"n": "two"}, 400, "n"),
        ({"response_format": "file"}, 400, "response_format"),
        ({"background": "transparent"}, 400, "background"),
        ({"output_format": "gif"}, 400, "output_format"),
        ({"output_compression": 50}, 400, "output_compression"),
        ({"output_format": "jpeg", "output_compression": 101}, 400, "output_compression"),
        ({"partial_images": 2}, 400, "partial_images"),
        ({"stream": True, "partial_images": 8}, 400, "partial_images"),
        ({"queue_events": True}, 400, "queue_events"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": MAX_SEED, "n": 2}, 400, "seed"),
        ({"seed": [1, 2, 3]}, 400, "seed"),
        ({"seed": "seven"}, 400, "seed"),
        ({"seed": [1.5]}, 400, "seed"),
        ({"guidance_scale": 0.5}, 400, "guidance_scale"),
        ({"temperature": 3}, 400, "temperature"),
        ({"temperature": 1e-5}, 400, "temperature"),
        ({"top_k": -1}, 400, "top_k"),
        ({"top_p": 0}, 400, "top_p"),
        ({"negative_prompt": " "}, 400, "negative_prompt"),
        *(({"size": size}, 400, "size") for size in ("32x64", "2049x64", "x", "64", "-64x-64", "6٤x6٤", "64x64x64")),
    ],
)
def test_bad_fields_are_named(client: TestClient, change: dict[str, Any], status: int, param: str) -> None:
    answer = client.post(IMAGES, json={"prompt": "a blue star"} | change)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if param == "model":
        assert "small" in error["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"steps": 30}, "steps"),
        ({"size": "1024x1024"}, "size"),
        ({"model": "dall-e-3"}, "model"),
        ({"model": "x"}, "model"),
    ],
)
def test_a_strict_server_refuses_what_others_overlook(
    either_backend: Backend, make_app: MakeApp, change: dict[str, Any], param: str
) -> None:
    client = TestClient(make_app(either_backend, strict=True)[0])
    answer = client.post(IMAGES, json={"prompt": "a blue star"} | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_lone_surrogates_and_broken_json_are_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    for body in (b'{"prompt": "\\ud800"}', b'{"prompt": ', b"\xff\xfe", b"[]", b"null"):
        answer = client.post(IMAGES, content=body, headers=headers)
        assert answer.status_code == 400, body
        assert answer.json()["error"]["message"]


def test_unknown_paths_answer_in_the_same_error_format(client: TestClient) -> None:
    answer = client.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/v1/images/generations", 405, "/v1/images/generations takes POST, not GET"),
        ("TRACE", "/health/ready", 405, "/health/ready takes GET, not TRACE"),
        ("DELETE", "/metrics", 405, "/metrics takes GET, not DELETE"),
        ("PURGE", "/v1/models", 405, "/v1/models takes GET, not PURGE"),
        ("DELETE", "/docs", 405, "/docs takes GET, not DELETE"),
        ("POST", "/openapi.json", 405, "/openapi.json takes GET, HEAD, not POST"),
        ("GET", "/v1/models/dall-e-3", 404, "no model 'dall-e-3' here; known: small"),
        ("GET", "/v1", 404, "no such route: /v1"),
        ("GET", "/metrics/what", 404, "no such route: /metrics/what"),
        ("POST", "/v1/chat/completions", 404, "no such route: /v1/chat/completions"),
        ("POST", "/admin/models", 404, "no such route: /admin/models"),
    ],
)
def test_a_page_at_the_root_does_not_hide_404_and_405(
    either_backend: Backend, make_app: MakeApp, method: str, path: str, status: int, said: str
) -> None:
    app = make_app(either_backend)[0]
    app.mount("/", PlainTextResponse("the page"))
    client = TestClient(app)
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, said)
    assert ("Allow" in answer.headers) is (status == 405)
    assert client.get("/").text == "the page"
    assert client.get("/health/live/").json() == client.get("/health/live").json()  # by a redirect


def test_integer_fields_accept_whole_floats(client: TestClient) -> None:
    answer = client.post(IMAGES, json={"prompt": "a star", "n": 2.0, "seed": [3.0, 4], "top_k": 5.0})
    assert [image["seed"] for image in answer.json()["data"]] == [3, 4]
    for wrong in ({"n": 1.5}, {"n": "2"}, {"n": True}, {"top_k": "5"}, {"seed": 1e300}):
        assert client.post(IMAGES, json={"prompt": "a star", **wrong}).status_code == 400


def test_openapi_declares_a_key_only_if_the_server_needs_one(either_backend: Backend, make_app: MakeApp) -> None:
    for settings, asked in (({}, False), ({"api_keys": "secret"}, True)):
        schema = TestClient(make_app(either_backend, **settings)[0]).get("/openapi.json").json()
        assert ("security" in schema["paths"][IMAGES]["post"]) is asked
