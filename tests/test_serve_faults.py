"""Clients and requests that misbehave, and their effect on other clients."""

import base64
import io
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from fastapi.sse import KEEPALIVE_COMMENT
from PIL import Image
from torch import Tensor

from model.checkpoints.load import load
from model.janus import Janus
from tests.thread_backend import ThreadBackend

IMAGES = "/v1/images/generations"
SEED_OF_THE_POISONED = 13


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


@pytest.fixture
def backend(janus: Janus) -> ThreadBackend:
    return ThreadBackend(janus, slots=4, queue_limit=400)


@pytest.fixture
def served(backend: ThreadBackend, serve_on_socket: Callable[..., Any]) -> Iterator[Any]:
    with serve_on_socket(backend) as served:
        yield served


def send(served: Any, body: dict[str, Any]) -> socket.socket:
    content = json.dumps(body).encode()
    head = (
        f"POST {IMAGES} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", served.port))
    connection.sendall(head.encode() + content)
    return connection


def until_idle(backend: ThreadBackend) -> None:
    deadline = time.monotonic() + 60
    while backend.stats.running or backend.stats.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def like(one: httpx.Response, other: httpx.Response) -> bool:
    """Whether two answers show the same picture up to one level per pixel, which the decoded batch may change."""
    a, b = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))), dtype=np.int16)
        for answer in (one, other)
    )
    return int(np.abs(a - b).max()) <= 1


def test_a_client_that_vanishes_in_a_stream_frees_its_slots(
    served: Any, backend: ThreadBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = backend.engine.decoder
    step, steps = decoder.step, 0

    def count(*arguments: object) -> Tensor:
        nonlocal steps
        steps += 1
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder, "step", count)
    with send(served, {"prompt": "a star", "n": 10, "stream": True, "partial_images": 7}) as connection:
        received = b""
        while b"partial_image" not in received:
            received += connection.recv(65536)
    until_idle(backend)
    assert steps < 3 * 63 * 0.8  # ten images in four slots would take three rounds of 63 steps
    assert served.post(IMAGES, {"prompt": "a star"}).status_code == 200


def test_a_slow_reader_delays_no_other_client(served: Any, backend: ThreadBackend) -> None:
    """It reads nothing of its 9 MB stream until five other requests are answered, then receives all its events."""
    body = {"prompt": "a star", "n": 10, "stream": True, "partial_images": 7, "size": "1024x1024", "seed": 1}
    with send(served, body) as slow:
        for seed in range(5):
            assert served.post(IMAGES, {"prompt": "a star", "seed": seed}).status_code == 200
        until_idle(backend)
        received = b""
        while received.count(b"event: image_generation.completed") < 10 or not received.endswith(b"0\r\n\r\n"):
            part = slow.recv(1 << 20)
            assert part
            received += part
    assert len(received) > 9_000_000


def test_a_silent_stream_sends_keep_alive_comments(
    served: Any, backend: ThreadBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies close silent connections; clients, here OpenAI's, skip the comments."""
    monkeypatch.setattr("serve.http.streaming._KEEPALIVE_SECONDS", 0.02)
    monkeypatch.setattr(backend.engine.decoder, "step", slowly(backend.engine.decoder.step))
    with httpx.stream("POST", served.url + IMAGES, json={"prompt": "a star", "stream": True}, timeout=60) as answer:
        text = "".join(answer.iter_text())
    assert text.count(KEEPALIVE_COMMENT.decode()) > 3
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        events = list(client.images.generate(prompt="a star", stream=True))
    assert [event.type for event in events] == ["image_generation.completed"]


def slowly(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def slow(*arguments: Any) -> Tensor:
        time.sleep(0.01)
        return step(*arguments)

    return slow


def test_two_hundred_connections_at_once_are_all_answered(served: Any) -> None:
    def ask(number: int) -> httpx.Response:
        answer: httpx.Response = served.post(IMAGES, {"prompt": "a star", "seed": number % 20})
        return answer

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(ask, range(200)))
    assert {answer.status_code for answer in answers} == {200}
    for number, answer in enumerate(answers):
        assert like(answer, answers[number % 20])


def test_a_poisoned_request_fails_alone(served: Any, backend: ThreadBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is planted in the logits of one seed; the other requests give the pictures that they give without it."""
    healthy = {seed: served.post(IMAGES, {"prompt": "a star", "seed": seed}) for seed in range(6)}
    engine = backend.engine
    step = engine.decoder.step

    def poison(codes: Tensor, rows: Any, cache: Any) -> Tensor:
        logits: Tensor = step(codes, rows, cache)
        place = 0
        for slot in engine._batch.slots:
            if slot.seed == SEED_OF_THE_POISONED:
                logits[place] = torch.nan
            place += len(slot.rows)
        return logits

    monkeypatch.setattr(engine.decoder, "step", poison)
    seeds = [0, 1, SEED_OF_THE_POISONED, 2, 3, 4, 5]
    with ThreadPoolExecutor(len(seeds)) as pool:
        asked = {seed: pool.submit(served.post, IMAGES, {"prompt": "a star", "seed": seed}) for seed in seeds}
        answers = {seed: one.result() for seed, one in asked.items()}
    assert answers[SEED_OF_THE_POISONED].status_code == 500
    assert all(like(answers[seed], healthy[seed]) for seed in healthy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "n": 1e400}',
        b'{"prompt": "a", "guidance_scale": NaN}',
        b'{"prompt": "a", "seed": 99999999999999999999999}',
        b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"prompt": "a", "prompt": 3}',
    ],
)
def test_malformed_bodies_are_refused_in_openais_shape(served: Any, content: bytes) -> None:
    answer = httpx.post(served.url + IMAGES, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_any_unicode_prompt_is_drawn_or_refused_by_name(served: Any) -> None:
    """Ranges from all over Unicode, with controls and joiners: status 200, or 400 that names the prompt."""
    generator = random.Random(3)
    ranges = [
        (0, 0x1F),
        (0x20, 0x7E),
        (0x80, 0x2FF),
        (0x300, 0x36F),
        (0x5D0, 0x6FF),
        (0x200B, 0x202E),
        (0x4E00, 0x9FFF),
    ]
    ranges += [(0xE000, 0xE0FF), (0xFFF0, 0xFFFD), (0x1F300, 0x1FAFF), (0xE0000, 0xE007F), (0x10FFF0, 0x10FFFF)]
    prompts = ["".join(chr(generator.randint(*r)) for _ in range(12)) for r in ranges]
    prompts += ["<begin_of_image>", "<|User|>: a star", "\u0000", "e\u0301" * 20, "👩‍👩‍👧‍👦" * 5]
    for prompt in prompts:
        answer = served.post(IMAGES, {"prompt": prompt, "temperature": 0})
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt"), prompt
