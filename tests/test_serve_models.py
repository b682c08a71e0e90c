"""Several models in one server: found by name, loaded, swapped and unloaded while requests are served."""

import asyncio
import base64
import io
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from model.checkpoints.footprint import footprint, measure
from model.checkpoints.load import load
from model.errors import CheckpointError, NoRoom
from model.janus import Janus
from serve.backends.engine_backend import EngineBackend
from serve.backends.loader import ProcessLoader
from serve.backends.registry import Registry
from serve.backends.triton.loader import TritonLoader
from serve.backends.watch import follow, newest_checkpoint
from serve.settings.model_source import ModelSource
from serve.settings.server import Settings
from tests.thread_backend import ThreadBackend
from tests.tools import needs_compiler, needs_triton
from tests.triton_process import TritonProcess

IMAGES = "/v1/images/generations"
ADMIN = {"Authorization": "Bearer admin"}


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


@pytest.fixture
def served(janus: Janus, serve_on_socket: Callable[..., Any]) -> Iterator[Any]:
    with serve_on_socket(ThreadBackend(janus, slots=2), admin_key="admin", api_keys="client") as served:
        yield served


@pytest.fixture
def served_by_triton(triton: TritonProcess, serve_on_socket: Callable[..., Any]) -> Iterator[Any]:
    settings: dict[str, Any] = {"backend": "triton", "triton_url": (triton.url,)}
    backend = TritonLoader(Settings(**settings))(ModelSource(name="small", source="small"))
    with serve_on_socket(backend, admin_key="admin", api_keys="client", **settings) as served:
        yield served


def admin(served: Any, method: str, path: str, **more: Any) -> httpx.Response:
    return httpx.request(method, served.url + path, headers=ADMIN, timeout=60, **more)


def draw(served: Any, **body: Any) -> httpx.Response:
    headers = {"Authorization": "Bearer client"}
    return httpx.post(
        served.url + IMAGES, json={"prompt": "a blue star", "seed": 1} | body, headers=headers, timeout=60
    )


def test_load_use_and_unload(served: Any, other_folder: Path) -> None:
    first = draw(served).json()
    assert draw(served, model="other").status_code == 400
    loaded = admin(served, "POST", "/admin/models", json={"source": str(other_folder)})
    assert loaded.status_code == 200, loaded.text
    assert loaded.json()["id"] == "other"
    assert loaded.json()["sampling"]["guidance_scale"] == 1
    second = draw(served, model="other").json()
    assert second["model"] == "other"
    assert second["data"] != first["data"]
    assert draw(served).json()["data"] == first["data"]
    assert admin(served, "DELETE", "/admin/models/other").status_code == 204
    assert draw(served, model="other").status_code == 400


def pixels(answer: httpx.Response) -> NDArray[np.int16]:
    content = base64.b64decode(answer.json()["data"][0]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.int16)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/admin/models", {"source": "/no/such"}, 400, "no model '/no/such'"),
        ("POST", "/admin/models", {"source": "{small}"}, 409, "loaded already"),
        ("POST", "/admin/models", {"source": "{small}", "name": "a b"}, 400, "name"),
        ("POST", "/admin/models", {}, 400, "source"),
        ("DELETE", "/admin/models/small", None, 409, "the only model"),
        ("DELETE", "/admin/models/none", None, 404, "no model 'none'"),
    ],
)
def test_an_impossible_admin_request_is_refused_with_a_reason(
    served: Any, small_folder: Path, method: str, path: str, body: dict[str, str] | None, status: int, said: str
) -> None:
    filled = body and {name: value.format(small=small_folder) for name, value in body.items()}
    answer = admin(served, method, path, json=filled)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert draw(served).status_code == 200


def test_admin_routes_need_the_admin_key(served: Any, janus: Janus, make_app: Callable[..., Any]) -> None:
    for headers in ({}, {"Authorization": "Bearer client"}):
        answer = httpx.post(f"{served.url}/admin/models", json={"source": "x"}, headers=headers)
        assert answer.status_code == 401
    backend = ThreadBackend(janus)
    assert TestClient(make_app(backend)[0]).post("/admin/models", json={"source": "x"}).status_code == 404
    backend.close()


def engines() -> int:
    """Number of running engines, in threads and in processes of their own."""
    return sum(thread.name == "engine" for thread in threading.enumerate()) + len(multiprocessing.active_children())


def swap_under_load(served: Any, *sources: str) -> None:
    """Six clients draw without pause while the model is replaced and put back; every answer shows one of two pictures.

    Pixels may differ by one level, depending on the decoded batch.
    """
    drawn: list[NDArray[np.int16]] = []
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(draw(served, n=2))

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    for source in sources:
        swapped = admin(served, "POST", "/admin/models", json={"source": source, "name": "small", "replace": True})
        assert swapped.status_code == 200, swapped.text
        drawn.append(pixels(draw(served)))
    stop.set()
    for thread in threads:
        thread.join()
    assert len(answers) >= 6
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        assert min(np.abs(pixels(answer) - one).max() for one in drawn) <= 1
    assert np.abs(drawn[0] - drawn[1]).max() > 50


def test_a_swap_under_load_fails_no_request(served: Any, other_folder: Path, small_folder: Path) -> None:
    """The engines of the replaced models end."""
    before = engines()
    swap_under_load(served, str(other_folder), str(small_folder))
    until = time.monotonic() + 20
    while engines() != before and time.monotonic() < until:
        time.sleep(0.05)
    assert engines() == before


@needs_triton
def test_a_swap_under_load_fails_no_request_of_a_front(served_by_triton: Any) -> None:
    swap_under_load(served_by_triton, "other", "small")


def test_memory_is_estimated_exactly_and_checked_before_loading(small_folder: Path, janus: Janus) -> None:
    needs = measure(str(small_folder), dtype="float32", device=torch.device("cpu"))
    backend = ThreadBackend(janus, slots=3)
    decoder = backend.engine.decoder
    image_tokenizer = backend.engine.image_tokenizer
    tables = decoder.weights.code_embedding.nbytes + decoder.rotations.nbytes + image_tokenizer.table_bytes
    assert needs.weights == tables + sum(parameter.nbytes for parameter in janus.network.state_dict().values())
    cache = backend.engine.cache
    assert 3 * needs.per_image == cache.nbytes
    backend.close()
    gib = needs.total(2) * 1.5 / 2**30
    loader = ProcessLoader(Settings(slots=2, memory_gib=gib, device="cpu"), on_death=lambda: None)
    first = loader(ModelSource(name="first", source=str(small_folder)))
    with pytest.raises(CheckpointError, match=r"second needs .* GiB .* for each of 2 images"):
        loader(ModelSource(name="second", source=str(small_folder)))
    first.close()
    loader(ModelSource(name="second", source=str(small_folder))).close()


@needs_compiler
def test_held_bytes_equal_the_estimate_and_are_less_with_int8(small_folder: Path) -> None:
    planned = measure(str(small_folder), dtype="float32", device=torch.device("cpu"))
    needs = planned.total(2)
    backend = ThreadBackend(load(small_folder, device="cpu"), slots=2, release=True)
    assert backend.held_bytes == needs
    backend.close()
    backend = ThreadBackend(load(small_folder, device="cpu"), slots=2, quantization="int8", release=True)
    network = backend.engine.janus.network
    shapes = [p.shape for p in network.parameters() if p.device.type == "meta"]
    assert shapes
    freed = sum(4 * outputs * inputs for outputs, inputs in shapes)
    # int8 values, filled up to a multiple of 64 inputs, and a float32 scale per output
    held = sum(outputs * -(-inputs // 64) * 64 + 4 * outputs for outputs, inputs in shapes)
    narrow = footprint(
        backend.engine.janus.network.config, torch.float32, torch.device("cpu"), cache_dtype=torch.bfloat16
    )
    assert 2 * narrow.per_image == planned.per_image
    assert backend.held_bytes == narrow.total(2) - freed + held
    backend.close()
    # once the first model is loaded, the second one can use the memory of its floats
    both = backend.held_bytes + narrow.total(2)
    loader = ProcessLoader(
        Settings(slots=2, memory_gib=both / 2**30, device="cpu", quantization="int8"), on_death=print
    )
    for loaded in [loader(ModelSource(name=name, source=str(small_folder))) for name in ("first", "second")]:
        loaded.close()


def test_what_the_device_cannot_round_is_refused_before_weights_are_loaded(small_folder: Path, tmp_path: Path) -> None:
    """There are none to load."""
    folder = shutil.copytree(small_folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    loader = ProcessLoader(Settings(slots=2, device="cpu", quantization="int4"), on_death=print)
    with pytest.raises(CheckpointError, match="int4 weights need an NVIDIA GPU: give int8"):
        loader(ModelSource(name="small", source=str(folder)))


def test_the_newest_finished_checkpoint_is_found(tmp_path: Path, small_folder: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for age, name in ((300, "step-1"), (100, "step-2"), (50, ".step-3.partial")):
        shutil.copytree(small_folder, tmp_path / name)
        written = time.time() - age
        os.utime(tmp_path / name / "config.json", (written, written))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "config.json").write_text("{}")
    assert newest_checkpoint(tmp_path) == tmp_path / "step-2"


def test_a_checkpoint_that_does_not_fit_is_served_once_memory_is_free(
    tmp_path: Path, small_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(small_folder, tmp_path / "run" / "step-1")
    gib = measure(str(small_folder), dtype="float32", device=torch.device("cpu")).total(1) * 1.5 / 2**30
    loader = ProcessLoader(Settings(device="cpu", slots=1, memory_gib=gib), on_death=lambda: None)
    other = loader(ModelSource(name="other", source=str(small_folder)))

    async def watched() -> None:
        models = Registry(loader)
        following = asyncio.create_task(follow(models, tmp_path / "run", seconds=0.02))
        async with asyncio.timeout(60):
            while "is not served" not in caplog.text:
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)  # retries meanwhile are not logged again
            await asyncio.to_thread(other.close)
            while "run" not in models.served:
                await asyncio.sleep(0.01)
        following.cancel()
        await models.close()

    asyncio.run(watched())
    assert caplog.text.count("is not served") == 1


def test_a_failed_checkpoint_that_is_deleted_changes_nothing(
    tmp_path: Path, small_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """step-2 fails to load three times and is deleted: step-1 is not loaded again, and only a new reason is logged."""
    run = tmp_path / "run"
    shutil.copytree(small_folder, run / "step-1")
    loads: list[str] = []
    reasons = iter([NoRoom("too large"), NoRoom("too large"), CheckpointError("damaged")])
    local = ProcessLoader(Settings(device="cpu", slots=1), on_death=lambda: None)

    def loader(source: ModelSource) -> EngineBackend:
        loads.append(Path(source.source).name)
        if loads[-1] == "step-2":
            raise next(reasons)
        return local(source)

    async def watched() -> None:
        models = Registry(loader)
        following = asyncio.create_task(follow(models, run, seconds=0.02))
        async with asyncio.timeout(60):
            while "run" not in models.served:
                await asyncio.sleep(0.01)
            shutil.copytree(small_folder, run / "step-2")
            os.utime(run / "step-2" / "config.json")
            while "damaged" not in caplog.text:
                await asyncio.sleep(0.01)
            shutil.rmtree(run / "step-2")
            await asyncio.sleep(0.5)
        following.cancel()
        await models.close()

    asyncio.run(watched())
    assert loads == ["step-1", "step-2", "step-2", "step-2"]
    assert caplog.text.count("too large") == 1


def test_a_training_run_is_followed_past_a_damaged_checkpoint(
    tmp_path: Path, small_folder: Path, other_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "grpo"
    run.mkdir()

    def finish(source: Path, name: str) -> None:
        shutil.copytree(source, run / f".{name}")
        os.utime(run / f".{name}" / "config.json")
        os.rename(run / f".{name}", run / name)

    async def until(models: Registry, scale: float) -> None:
        async with asyncio.timeout(60):
            while "grpo" not in models.served or models.find("grpo").backend.info.sampling.guidance_scale != scale:
                await asyncio.sleep(0.02)

    async def watched() -> None:
        models = Registry(ProcessLoader(Settings(device="cpu", slots=1), on_death=lambda: None))
        following = asyncio.create_task(follow(models, run, seconds=0.05))
        finish(small_folder, "step-1")
        await until(models, load(small_folder, device="cpu").sampling.guidance_scale)
        finish(small_folder, "step-2")
        (run / "step-2" / "config.json").write_text("{}")  # damaged after it was renamed into place
        while "step-2 is not served" not in caplog.text:
            await asyncio.sleep(0.02)
        assert models.state == "ready"
        finish(other_folder, "step-3")
        await until(models, 1)
        following.cancel()
        await models.close()

    asyncio.run(watched())
