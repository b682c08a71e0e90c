"""The real OpenAI client, unchanged, against a real server."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import httpx
import openai
import pytest
import torch
from PIL import Image
from torch import Tensor

from pairs.picture_file import read_metadata
from serve.backends.protocol import Backend
from tests.thread_backend import ThreadBackend
from tests.triton_process import TritonProcess


@pytest.fixture
def backend(load_backend: Callable[[str], Backend]) -> Backend:
    return load_backend("small")


@pytest.fixture
def served(backend: Backend, serve_on_socket: Callable[..., Any]) -> Iterator[Any]:
    settings = {"api_keys": "sk-right", "aliases": {"gpt-image-1": "small"}, "max_body_mib": 0.1}
    with serve_on_socket(backend, **settings) as served:
        yield served


@pytest.fixture
def client(served: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="sk-right", max_retries=0, timeout=60) as client:
        yield client


@contextmanager
def paused(backend: Backend, triton: TritonProcess | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw nothing meanwhile: neither the engine of this process nor those of a Triton server."""
    with monkeypatch.context() as patch, ExitStack() as stack:
        if triton is not None:
            for engine in triton.engines:
                engine.suspend()
                stack.callback(engine.resume)
        else:
            assert isinstance(backend, ThreadBackend)
            step, going = backend.engine.step, threading.Event()
            patch.setattr(backend.engine, "step", lambda: (going.wait(), step())[1])
            stack.callback(going.set)
        yield


def picture(content: str | None) -> Image.Image:
    assert content is not None
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_generate(client: openai.OpenAI) -> None:
    answer = client.images.generate(model="small", prompt="a blue star", n=2, extra_body={"seed": 3})
    assert answer.data is not None
    assert [picture(one.b64_json).size for one in answer.data] == [(64, 64)] * 2
    assert answer.usage is not None
    assert answer.usage.output_tokens == 128
    assert abs(answer.created - time.time()) < 60


def test_openais_own_fields_are_accepted(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="gpt-image-1",
        prompt="a blue star",
        size="1024x1024",
        quality="high",
        background="opaque",
        moderation="low",
        output_format="webp",
        output_compression=80,
        user="somebody",
    )
    assert answer.data is not None
    assert picture(answer.data[0].b64_json).size == (1024, 1024)
    assert answer.output_format == "webp"


def test_urls(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a blue star", response_format="url", extra_body={"seed": 3})
    whole = client.images.generate(prompt="a blue star", extra_body={"seed": 3})
    assert answer.data is not None
    assert whole.data is not None
    assert answer.data[0].url is not None
    file = httpx.get(answer.data[0].url)  # without a key
    assert file.headers["content-type"] == "image/png"
    assert file.content == base64.b64decode(whole.data[0].b64_json or "")


def test_a_stream_ends_with_the_picture_of_a_plain_answer(client: openai.OpenAI) -> None:
    whole = client.images.generate(prompt="a blue star", extra_body={"seed": 3})
    with client.images.generate(prompt="a blue star", stream=True, partial_images=3, extra_body={"seed": 3}) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    partials, completed = events[:3], events[3]
    assert [event.partial_image_index for event in partials] == [0, 1, 2]  # type: ignore[union-attr]
    assert len({event.b64_json for event in events}) == 4
    assert whole.data is not None
    assert completed.b64_json == whole.data[0].b64_json
    assert (completed.size, completed.background, completed.output_format) == ("64x64", "opaque", "png")
    assert completed.usage.output_tokens == 64  # type: ignore[union-attr]


def test_stream_events_name_their_image(client: openai.OpenAI) -> None:
    extra = {"seed": [5, 9], "queue_events": True}
    with client.images.generate(prompt="a blue star", n=2, stream=True, partial_images=1, extra_body=extra) as stream:
        events = [event.model_dump() for event in stream]
    assert events[0]["type"] == "image_generation.queued"
    assert events[0]["position"] == 0
    done = {event["image_index"]: event for event in events if event["type"] == "image_generation.completed"}
    assert {index: event["seed"] for index, event in done.items()} == {0: 5, 1: 9}
    made_with = read_metadata(io.BytesIO(base64.b64decode(done[1]["b64_json"])))
    assert made_with is not None
    assert made_with["seed"] == 9


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("gpt-image-1").id == "small"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dall-e-3")


def test_errors_raise_the_clients_own_exceptions(client: openai.OpenAI, served: Any) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(prompt="", extra_body={})
    assert bad.value.param == "prompt"
    with pytest.raises(openai.BadRequestError, match="no model 'large' here; known: small, gpt-image-1"):
        client.images.generate(prompt="a blue star", model="large")
    with pytest.raises(openai.BadRequestError, match="cannot change one"):
        client.images.edit(image=b"x", prompt="a blue star")
    with pytest.raises(openai.APIStatusError, match=r"at most 0\.1 MiB") as large:
        client.images.generate(prompt="x" * 200_000)
    assert large.value.status_code == 413
    for key in ("sk-wrong", "sk-righ"):
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key=key).images.generate(prompt="a blue star")
    assert httpx.get(f"{served.url}/v1/models").status_code == 401


def test_the_client_retries_after_a_full_queue(
    client: openai.OpenAI,
    served: Any,
    backend: Backend,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While nothing is drawn, twenty images fill the queue; the client is refused, but with retries it gets its ten."""
    triton = None if isinstance(backend, ThreadBackend) else request.getfixturevalue("triton")
    headers = {"Authorization": "Bearer sk-right"}
    body = {"prompt": "a blue star", "n": 10, "stream": True}

    def stream() -> AbstractContextManager[httpx.Response]:
        return httpx.stream("POST", f"{served.url}/v1/images/generations", json=body, headers=headers, timeout=60)

    with ExitStack() as streams:
        with paused(backend, triton, monkeypatch):
            accepted = [streams.enter_context(stream()) for _ in range(2)]
            assert [answer.status_code for answer in accepted] == [200, 200]
            with pytest.raises(openai.RateLimitError):
                client.images.generate(prompt="a blue star", n=1)
        answer = client.with_options(max_retries=50).images.generate(prompt="a blue star", n=10)
        assert answer.data is not None
        assert len(answer.data) == 10
    refused = httpx.get(f"{served.url}/metrics").text
    assert 'focusdiff_queue_full_total{model="small"}' in refused


def test_an_image_that_fails_during_a_stream_raises_in_the_client(
    small_backend: ThreadBackend, serve_on_socket: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = small_backend.engine.decoder
    step = decoder.step

    def poison(*arguments: object) -> Tensor:
        logits: Tensor = step(*arguments)  # type: ignore[arg-type]
        logits[-1, 0] = torch.inf
        return logits

    monkeypatch.setattr(decoder, "step", poison)
    with (
        serve_on_socket(small_backend) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client,
        client.images.generate(prompt="a blue star", stream=True, partial_images=1, extra_body={"seed": 4}) as stream,
        pytest.raises(openai.APIError, match=r"image 0 \(seed 4\): the model gave a logit"),
    ):
        list(stream)
