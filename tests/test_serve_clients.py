"""Requests of real front ends with default settings, and the fields of the answer that they read.

Bodies are those of the clients' own code, at the versions in docs/clients.md.
"""

import base64
import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from serve.backends.protocol import Backend

IMAGES = "/v1/images/generations"
BODIES: dict[str, dict[str, Any]] = {
    "openai for Python, with None": {"model": None, "prompt": "P", "n": None, "quality": None, "size": None},
    "openai for Node": {"model": "gpt-image-1", "prompt": "P", "size": None},
    "Open WebUI": {"model": "dall-e-2", "prompt": "P", "n": 1, "size": "512x512", "response_format": "b64_json"},
    "Open WebUI, gpt-image": {"model": "gpt-image-1.5", "prompt": "P", "n": 1, "size": "1536x1024"},
    "LibreChat, OpenAI image tools": {
        "model": "gpt-image-1", "prompt": "P", "n": 1, "background": "auto", "output_format": "png", "quality": "auto",
        "size": "auto",
    },
    "LibreChat, DALL-E 3": {
        "model": "dall-e-3", "quality": "standard", "style": "vivid", "size": "1024x1024", "prompt": "P", "n": 1,
    },
    "LobeChat": {
        "model": "dall-e-3", "n": 1, "response_format": "b64_json", "prompt": "P", "quality": "standard",
        "size": "1024x1024", "seed": None, "samplerName": "x", "cfg": 7,
    },
    "n8n": {"prompt": "P", "model": "gpt-image-1-mini"},
    "n8n, DALL-E": {"prompt": "P", "model": "dall-e-3", "response_format": "b64_json", "quality": "hd"},
    "Nextcloud": {"prompt": "P", "size": "1024x1024", "n": 1, "model": "gpt-image-1-mini"},
    "LiteLLM": {"model": "small", "prompt": "P", "n": 2, "quality": "auto", "size": "64x64", "user": "u"},
    "LangChain for Python": {"model": "dall-e-2", "prompt": "P", "n": 1, "size": "1024x1024"},
    "LangChain for JS": {
        "model": "dall-e-3", "prompt": "P", "n": 1, "size": "1024x1024", "response_format": "url", "style": "vivid",
        "quality": "standard",
    },
    "AI SDK, openai": {"model": "small", "prompt": "P", "n": 1, "size": "64x64", "response_format": "b64_json"},
    "AI SDK, openai-compatible": {"model": "small", "prompt": "P", "n": 2, "size": "64x64", "seed": 3, "user": "u"},
}  # fmt: skip
NEED_URL = {"LibreChat, DALL-E 3", "LangChain for Python", "LangChain for JS"}


@pytest.fixture
def client(either_backend: Backend, make_app: Callable[..., Any]) -> TestClient:
    return TestClient(make_app(either_backend)[0], raise_server_exceptions=False)


@pytest.mark.parametrize("name", BODIES)
def test_the_default_request_of_a_client_is_answered_as_it_reads_it(client: TestClient, name: str) -> None:
    body = BODIES[name]
    answer = client.post(IMAGES, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    content = answer.json()
    assert isinstance(content["created"], int)
    assert content["model"] == "small"  # what drew, whatever name was asked for
    assert len(content["data"]) == (body.get("n") or 1)
    for entry in content["data"]:
        # never both: some clients show a picture twice then
        assert (entry["url"] is not None, entry["b64_json"] is not None) == (name in NEED_URL, name not in NEED_URL)
        if entry["url"]:
            assert entry["url"].endswith(".png")
            link = client.get(entry["url"])
            assert link.headers["content-type"] == "image/png"
            file = link.content
        else:
            file = base64.b64decode(entry["b64_json"])
        width, height = Image.open(io.BytesIO(file)).size
        size = body.get("size") or "auto"
        assert f"{width}x{height}" == content["size"] == ("64x64" if size == "auto" else size)
    assert set(content["usage"]) >= {"input_tokens", "output_tokens", "total_tokens", "input_tokens_details"}


def test_ignored_fields_are_named_in_the_answer_and_in_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"prompt": "P", "steps": 30, "cfg": None, "a\nb": 1, "n": 1}
    with caplog.at_level(logging.INFO, "focusdiff"):
        answer = client.post(IMAGES, json=body)
    assert answer.headers["x-ignored-fields"] == "steps, ?"
    assert "ignored fields: steps, ?" in caplog.text
    assert "x-ignored-fields" not in client.post(IMAGES, json={"prompt": "P"}).headers


def test_many_ignored_fields_make_a_short_header(client: TestClient) -> None:
    answer = client.post(IMAGES, json={"prompt": "P"} | {f"field{number}": number for number in range(1000)})
    assert answer.status_code == 200
    assert len(answer.headers["x-ignored-fields"].split(", ")) == 20


def test_a_streamed_answer_names_ignored_fields_too(client: TestClient) -> None:
    answer = client.post(IMAGES, json={"prompt": "P", "stream": True, "steps": 30})
    assert answer.headers["x-ignored-fields"] == "steps"


def test_the_probe_of_nextcloud_is_told_that_the_model_is_wrong_but_the_route_exists(client: TestClient) -> None:
    answer = client.post(IMAGES, json={"prompt": "a", "model": "invalid-model"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "model_not_found"


def test_the_probe_of_sillytavern_finds_the_route(client: TestClient) -> None:
    answer = client.options(IMAGES)
    assert (answer.status_code, answer.headers["allow"]) == (204, "POST")
