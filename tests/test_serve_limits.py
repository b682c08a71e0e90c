"""API keys, rate limits, body size limits, CORS, and the store of pictures that answers link to."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from model.checkpoints.load import load
from serve.backends.protocol import Backend
from serve.http.errors import Busy, InvalidRequest, NotFound, Unauthorized
from serve.http.guards.keys import Caller, Keys
from serve.http.guards.rates import Limiter
from serve.http.store import Store, StoreError
from tests.thread_backend import ThreadBackend

IMAGES = "/v1/images/generations"


def test_only_known_keys_pass_and_caller_names_do_not_reveal_them() -> None:
    keys = Keys([SecretStr("one"), SecretStr("two")])
    names = {keys.check(key).name for key in ("one", "two")}
    assert len(names) == 2
    assert not any(key in name for name in names for key in ("one", "two"))
    for wrong in (None, "", "thr", "on", "one "):
        with pytest.raises(Unauthorized):
            keys.check(wrong)


def test_every_key_is_compared_even_after_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr("serve.http.guards.keys.hmac.compare_digest", lambda a, b: compared.append(b) or a == b)  # type: ignore[func-returns-value]
    Keys([SecretStr("a"), SecretStr("b"), SecretStr("c")]).check("a")
    assert len(compared) == 3


def test_api_routes_need_a_key_but_health_metrics_and_docs_do_not(
    either_backend: Backend, make_app: Callable[..., Any]
) -> None:
    client = TestClient(make_app(either_backend, api_keys="right")[0])
    for method, path in (
        ("POST", IMAGES),
        ("POST", "/v1/images/pairs"),
        ("POST", "/v1/judgements"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/small"),
        ("GET", "/v1/training"),
    ):
        answer = client.request(method, path, json={"prompt": "a"})
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "missing_api_key"
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200, path


def test_images_are_counted_against_each_callers_rate() -> None:
    limiter = Limiter("5/hour")

    def take(name: str, images: int) -> None:
        limiter.check(Caller(name), images)
        limiter.spend(Caller(name), images)

    take("a", 3)
    with pytest.raises(Busy) as refusal:
        take("a", 3)
    assert 3500 < refusal.value.retry_after <= 3601
    take("a", 2)
    take("b", 5)
    with pytest.raises(InvalidRequest, match="6 images are more than the 5"):
        take("c", 6)  # more than a whole hour's rate
    Limiter(None).check(Caller("a"), 10_000)


def test_requests_refused_by_the_queue_do_not_count_against_the_rate(
    small_folder: Path, make_app: Callable[..., Any]
) -> None:
    backend = ThreadBackend(load(small_folder, device="cpu"), slots=1, queue_limit=5)
    client = TestClient(make_app(backend, rate_limit="10/hour")[0])
    for _ in range(3):
        assert client.post(IMAGES, json={"prompt": "a star", "n": 6}).json()["error"]["code"] == "queue_full"
    assert client.post(IMAGES, json={"prompt": "a star", "n": 5}).status_code == 200
    backend.close()


def test_an_exhausted_rate_gives_429_with_retry_after(either_backend: Backend, make_app: Callable[..., Any]) -> None:
    client = TestClient(make_app(either_backend, rate_limit="2/minute")[0])
    assert client.post(IMAGES, json={"prompt": "a star", "n": 2}).status_code == 200
    answer = client.post(IMAGES, json={"prompt": "a star"})
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answer.headers["Retry-After"]) <= 61


@pytest.mark.parametrize("chunked", [False, True])
def test_long_bodies_are_refused_with_and_without_content_length(
    either_backend: Backend, make_app: Callable[..., Any], chunked: bool
) -> None:
    client = TestClient(make_app(either_backend, max_body_mib=0.01)[0])
    body = b'{"prompt": "' + b"x" * 20_000 + b'"}'
    parts = (body[i : i + 1000] for i in range(0, len(body), 1000))
    answer = client.post(IMAGES, content=parts if chunked else body, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "the body must be at most 0.01 MiB"


def test_cors_allows_only_the_configured_origins(either_backend: Backend, make_app: Callable[..., Any]) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    closed = TestClient(make_app(either_backend)[0])
    assert "access-control-allow-origin" not in closed.options(IMAGES, headers=asked).headers
    opened = TestClient(make_app(either_backend, cors_origins="https://a.example")[0])
    assert opened.options(IMAGES, headers=asked).headers["access-control-allow-origin"] == "https://a.example"
    asked["Origin"] = "https://b.example"
    assert "access-control-allow-origin" not in opened.options(IMAGES, headers=asked).headers


def test_stored_pictures_expire_and_are_then_removed(tmp_path: Path) -> None:
    async def kept() -> None:
        store = Store(str(tmp_path), seconds=2, limit=1000)
        sweeping = asyncio.create_task(store.sweep())
        name = await store.put(b"picture", "png")
        assert await store.get(name) == b"picture"
        await asyncio.sleep(2.1)
        with pytest.raises(NotFound):
            await store.get(name)
        async with asyncio.timeout(10):
            while list(tmp_path.iterdir()):
                await asyncio.sleep(0.05)
        sweeping.cancel()

    asyncio.run(kept())


def test_a_picture_that_cannot_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    store = Store(str(tmp_path), seconds=60, limit=1000)
    monkeypatch.setattr(store._files, "mv", full)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(store.put(b"picture", "png"))
    assert list(tmp_path.iterdir()) == []


def test_a_picture_whose_write_is_cancelled_counts_against_the_limit(tmp_path: Path) -> None:
    async def leave() -> Store:
        store = Store(str(tmp_path), seconds=60, limit=250)
        for _ in range(4):
            writing = asyncio.create_task(store.put(bytes(100), "png"))
            await asyncio.sleep(0)
            writing.cancel()
        return store

    asyncio.run(leave())  # waits for the writing threads
    assert len(list(tmp_path.iterdir())) == 2


def test_the_oldest_pictures_are_removed_when_the_store_is_full(tmp_path: Path) -> None:
    async def kept() -> None:
        store = Store(str(tmp_path), seconds=60, limit=250)
        names = [await store.put(bytes([i]) * 100, "png") for i in range(4)]
        assert {path.name for path in tmp_path.iterdir()} == set(names[2:])
        with pytest.raises(NotFound):
            await store.get(names[0])
        assert await store.get(names[3]) == bytes([3]) * 100

    asyncio.run(kept())


def test_a_new_store_keeps_pictures_and_removes_half_written_ones(tmp_path: Path) -> None:
    name = asyncio.run(Store(str(tmp_path), seconds=60, limit=1000).put(b"picture", "png"))
    (tmp_path / f"{'x' * 32}.png.partial").write_bytes(b"pict")
    (tmp_path / "film.mkv.partial").write_text("not ours")
    again = Store(str(tmp_path), seconds=60, limit=1000)
    assert asyncio.run(again.get(name)) == b"picture"
    assert {path.name for path in tmp_path.iterdir()} == {name, "film.mkv.partial"}
    old = time.time() - 100
    os.utime(tmp_path / name, (old, old))
    with pytest.raises(NotFound):
        asyncio.run(Store(str(tmp_path), seconds=60, limit=1000).get(name))


@pytest.mark.parametrize("name", ["../secret.png", "notes.txt", "..", "", "a" * 32 + ".exe", "/etc/passwd"])
def test_only_names_of_pictures_are_looked_up(tmp_path: Path, name: str) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "store" / "notes.txt").write_bytes(b"notes")
    with pytest.raises(NotFound):
        asyncio.run(Store(str(tmp_path / "store"), seconds=60, limit=1000).get(name))


def test_pictures_can_be_stored_on_an_fsspec_filesystem() -> None:
    store = Store("memory://pictures", seconds=60, limit=1000)
    name = asyncio.run(store.put(b"picture", "webp"))
    assert fsspec.filesystem("memory").cat_file(f"/pictures/{name}") == b"picture"
    assert asyncio.run(store.get(name)) == b"picture"


def test_an_unusable_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for url in (str(tmp_path / "file" / "folder"), "nosuch://x"):
        with pytest.raises(StoreError, match=r"store: .* cannot be used"):
            Store(url, seconds=1, limit=1)
