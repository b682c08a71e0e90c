"""The upscaler's process behind a server: pictures enlarged by its network, and by Lanczos's filter when it cannot."""

import asyncio
import base64
import io
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import psutil
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from pairs.picture_file import read_metadata
from serve.upscaling.messages import Cancel, LoadNetwork, NotUpscaled, Upscaled
from serve.upscaling.upscaler import Enlarged, Upscaler
from tests.serve_process import IMAGES, ServeProcess
from tests.test_serve_metrics import sample
from tests.thread_backend import ThreadBackend
from tests.upscaler_weights import compact

T = TypeVar("T")
BY_NETWORK = "repeating.pth (RealESRGAN Compact x2, 3 passes)"


@pytest.fixture(scope="module")
def repeating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that repeats each pixel, 2 × 2 times."""
    file = tmp_path_factory.mktemp("upscaler") / "repeating.pth"
    torch.save(compact(scale=2), file)
    return file


@pytest.fixture
def upscaler(repeating: Path) -> Iterator[Upscaler]:
    upscaler = Upscaler(LoadNetwork(repeating, device="cpu", log_level="info", log_format="text"))
    yield upscaler
    upscaler.close()


def decoded(b64_json: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def of(answer: Any) -> Image.Image:
    """The picture of an answer, of httpx or of the test client."""
    assert answer.status_code == 200, answer.text
    return decoded(answer.json()["data"][0]["b64_json"])


def repeated(picture: Image.Image, times: int) -> Image.Image:
    return Image.fromarray(np.array(picture.convert("RGB")).repeat(times, axis=0).repeat(times, axis=1))


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and first.tobytes() == second.tobytes()


def until(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.01)


def enlarging(metrics: Callable[[], str], count: int) -> Callable[[], bool]:
    """Whether so many pictures are in the upscaler or its queue."""
    return lambda: sample(metrics(), "enlarging_pictures") == count


def test_a_real_server_draws_on_while_it_enlarges(repeating: Path, small_folder: Path) -> None:
    """The upscaler is stopped by SIGSTOP: what is answered meanwhile did not wait for it."""
    with ServeProcess(small_folder, "--upscaler", str(repeating)) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_ready()
        (process,) = [one for one in server.children if one.nice() > psutil.Process().nice()]
        process.suspend()
        waiting = pool.submit(server.draw, seed=1, size="512x512")
        until(enlarging(lambda: server.get("/metrics").text, 1))
        small = of(server.draw(seed=1))
        assert not waiting.done()
        process.resume()
        large = waiting.result()
        assert same(of(large), repeated(small, 8))
        assert large.json()["resizing"] == {"drawn": "64x64", "filter": BY_NETWORK, "fit": None}
        left = server.children
        server.process.terminate()
        assert server.wait() == 0
        until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in left))


def test_a_killed_upscaler_is_started_again(
    upscaler: Upscaler,
    small_backend: ThreadBackend,
    serve_on_socket: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Killed with a picture, which Lanczos's filter enlarges then, and killed while idle."""
    body = {"prompt": "a star", "seed": 1}
    with serve_on_socket(small_backend, upscaler=upscaler) as served, ThreadPoolExecutor(1) as pool:

        def metrics() -> str:
            return httpx.get(served.url + "/metrics").text

        small = of(served.post(IMAGES, body))
        assert same(of(served.post(IMAGES, body | {"size": "512x512"})), repeated(small, 8))
        suspended_process = psutil.Process(upscaler._process._process.pid)
        suspended_process.suspend()
        waiting = pool.submit(served.post, IMAGES, body | {"size": "512x512"})
        until(enlarging(metrics, 1))
        suspended_process.kill()
        failed = waiting.result()
        assert same(of(failed), small.resize((512, 512), Image.Resampling.LANCZOS))
        assert "lanczos (instead of repeating.pth: its process ended by SIGKILL" in failed.json()["resizing"]["filter"]
        for _ in range(2):
            assert same(of(served.post(IMAGES, body | {"size": "512x512"})), repeated(small, 8))
            idle = psutil.Process(upscaler._process._process.pid)
            idle.kill()
            until(lambda: upscaler._process.ended is not None)
        text = metrics()
    assert (sample(text, "enlarge_seconds_count"), sample(text, "upscaler_failures_total")) == (3, 1)
    assert caplog.text.count("the upscaler's process ended by SIGKILL") == 2


def test_every_kind_of_answer_has_the_networks_picture(
    upscaler: Upscaler, small_backend: ThreadBackend, make_app: Callable[..., Any]
) -> None:
    client = TestClient(make_app(small_backend, upscaler=upscaler)[0])
    body = {"prompt": "a star", "seed": 1}
    small = of(client.post(IMAGES, json=body))
    large = repeated(small, 8)

    padded = client.post(IMAGES, json=body | {"size": "600x512"})
    assert same(of(padded).crop((44, 0, 556, 512)), large)
    assert padded.json()["resizing"] == {"drawn": "64x64", "filter": BY_NETWORK, "fit": "pad"}
    file = io.BytesIO(base64.b64decode(padded.json()["data"][0]["b64_json"]))
    settings = read_metadata(file)
    assert settings is not None
    assert settings["resized"]["filter"] == BY_NETWORK

    exact = client.post(IMAGES, json=body | {"size": "128x128"}).json()["resizing"]["filter"]
    assert exact == "repeating.pth (RealESRGAN Compact x2, 1 pass)"
    beyond = client.post(IMAGES, json=body | {"size": "500x500"})
    assert same(of(beyond), large.resize((500, 500), Image.Resampling.LANCZOS))
    assert beyond.json()["resizing"]["filter"] == BY_NETWORK.replace(")", ", reduced by lanczos)")
    for narrow in ("64x512", "64x64"):  # the square is not enlarged
        resizing = client.post(IMAGES, json=body | {"size": narrow}).json()["resizing"]
        assert resizing is None or resizing["filter"] == "lanczos"

    stream = client.post(IMAGES, json=body | {"size": "512x512", "stream": True, "partial_images": 1}).text
    events = [httpx.Response(200, content=line[6:]).json() for line in stream.splitlines() if line.startswith("data: ")]
    preview, completed = events
    assert same(decoded(completed["b64_json"]), large)
    assert completed["resizing"]["filter"] == BY_NETWORK
    every_eighth = decoded(preview["b64_json"]).resize((64, 64), Image.Resampling.NEAREST)
    assert not same(decoded(preview["b64_json"]), repeated(every_eighth, 8))  # of the network it would be

    web_ui = client.post("/sdapi/v1/txt2img", json=body | {"width": 512, "height": 512}).json()
    assert same(decoded(web_ui["images"][0]), large)
    known = client.get("/sdapi/v1/upscalers").json()[-1]
    assert (known["name"], known["model_name"], known["scale"]) == ("repeating.pth", "RealESRGAN Compact", 2)


def suspended(upscaler: Upscaler, test: Callable[[psutil.Process], Coroutine[Any, Any, T]]) -> T:
    """Run a test while the process is suspended; the test is given it."""

    async def run() -> T:
        await upscaler.load()
        process = psutil.Process(upscaler._process._process.pid)
        process.suspend()
        try:
            return await test(process)
        finally:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    return asyncio.run(run())


SMALL = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))


def test_pictures_that_nobody_waits_for_are_given_up(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has been sent, and is dropped by the process; the second is never sent; the third is enlarged."""
    sent, answers = threading.Event(), []

    async def test(process: psutil.Process) -> Enlarged:
        receive, send = upscaler._process.receive, upscaler._process.send

        def note() -> object:
            sent.set()
            answers.append(receive())
            return answers[-1]

        monkeypatch.setattr(upscaler._process, "receive", note)
        first, second = (asyncio.create_task(upscaler.enlarge(SMALL, 2048, seconds=None)) for _ in range(2))
        third = asyncio.create_task(upscaler.enlarge(SMALL, 128, seconds=None))
        await asyncio.to_thread(sent.wait)
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        send(Cancel(-1))  # of none: when it is taken from the outbox, the first's has been written
        until(upscaler._process._outbox.empty)
        process.resume()
        return await third

    assert same(suspended(upscaler, test).picture, repeated(SMALL, 2))
    assert [type(answer) for answer in answers] == [NotUpscaled, Upscaled]


def test_a_deadline_and_a_full_queue_leave_the_picture_as_it_was_drawn(
    upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.upscaling.upscaler._MOST_WAITING", 2)

    async def test(_: psutil.Process) -> list[Enlarged]:
        return await asyncio.gather(*(upscaler.enlarge(SMALL, 128, seconds=0.5) for _ in range(3)))

    reasons = ["the deadline passed", "the deadline passed", "2 pictures wait for it already"]
    for one, reason in zip(suspended(upscaler, test), reasons, strict=True):
        assert one.picture is SMALL
        assert (one.seconds, one.filter) == (None, f"lanczos (instead of repeating.pth: {reason})")


def test_stopping_answers_those_who_wait(upscaler: Upscaler) -> None:
    async def test(_: psutil.Process) -> list[Enlarged]:
        asked = [asyncio.create_task(upscaler.enlarge(SMALL, 128, seconds=None)) for _ in range(3)]
        await asyncio.sleep(0)  # all are submitted
        upscaler.stop()
        return await asyncio.gather(*asked)

    filters = {one.filter for one in suspended(upscaler, test)}
    assert filters == {"lanczos (instead of repeating.pth: the server is stopping)"}
