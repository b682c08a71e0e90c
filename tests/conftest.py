"""Shared fixtures: golden values of the original implementation, checkpoints, and servers in this process."""

import json
import multiprocessing
import os
import shutil
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read by Triton when anything imports it, as the imports below do

import httpx
import hypothesis
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from model.checkpoints.load import load
from model.checkpoints.save import save
from model.janus import Janus
from model.params import SamplingParams
from model.prompt import special_ids
from model.vector_math import warm_up_vector_math
from pairs.world import World
from serve.backends.loader import ProcessLoader
from serve.backends.protocol import Backend
from serve.backends.registry import Registry
from serve.backends.triton.loader import TritonLoader
from serve.http.app import create_app
from serve.http.metrics import Metrics
from serve.http.store import Store
from serve.settings.model_source import ModelSource
from serve.settings.server import Settings
from serve.upscaling.upscaler import Upscaler
from tests.ended import Ended
from tests.thread_backend import ThreadBackend
from tests.tools import needs_triton
from tests.triton_process import TritonProcess
from tests.vlm_endpoint import VlmEndpoint
from train.data.scenes import SceneSource
from train.tiny.network import build_network
from train.tiny.recipe import TinyRecipe, load_recipe
from train.tiny.text_tokenizer import train_text_tokenizer

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as every command does
# of a file, httpx reads every certificate for each new client, which takes 30 ms; of a folder, those that it needs
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = ssl.get_default_verify_paths().openssl_capath
warm_up_vector_math()  # some tests compute with networks that `load` has not prepared
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")
GOLDEN = Path(__file__).parent / "golden"
_SCALES = {
    "gen_embed.weight": 2.0,
    "gen_head.vision_head.weight": 0.5,
    "language_model.model.embed_tokens.weight": 1.5,
    "gen_vision_model.quantize.embedding.weight": 1.0,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests: one worker starts with the long tests, the other with those in the browser.

    Those of the session's Triton server follow in one piece, so that other workers need not start one, too.
    """
    browser = [item for item in items if item.path.name == "test_ui_browser.py"]
    triton = [item for item in items if _uses_triton(item)]
    long = [item for item in items if item not in browser + triton and item.get_closest_marker("long")]
    short = [item for item in items if item not in browser + triton + long]
    half = max(0, len(items) // 2 - len(long))
    items[:] = [*long, *short[:half], *browser, *triton, *short[half:]]


def _uses_triton(item: pytest.Item) -> bool:
    """Whether a test needs the fixture `triton`."""
    assert isinstance(item, pytest.Function)
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return "triton" in item.fixturenames or parameters.get("load_backend") == "triton"


def golden_tensor(name: str, shape: list[int], seed: int = 7) -> Tensor:
    """Weight `name` of the golden model, computed from the formula that the golden values were made with."""
    stream = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
    x = torch.from_numpy(2 * stream.random(shape, dtype=np.float32) - 1)
    if len(shape) == 1:
        return 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    return _SCALES.get(name, 0.08 if name.startswith("gen_vision_model.") else 0.14) * x


@pytest.fixture(scope="session")
def golden() -> Mapping[str, Tensor]:
    """Outputs of the original implementation, float32."""
    return dict(load_file(GOLDEN / "golden.safetensors"))


@pytest.fixture(scope="session")
def deepseek_tensors() -> Mapping[str, Tensor]:
    """The golden model's state dict under DeepSeek's names."""
    shapes: dict[str, Any] = json.loads((GOLDEN / "shapes.json").read_text())
    return {name: golden_tensor(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def deepseek_folder(tmp_path_factory: pytest.TempPathFactory, deepseek_tensors: Mapping[str, Tensor]) -> Path:
    """The golden model as a checkpoint folder: config.json and one pytorch_model.bin."""
    folder = tmp_path_factory.mktemp("deepseek") / "deepseek_tiny"
    folder.mkdir()
    shutil.copy(GOLDEN / "config.json", folder)
    torch.save(dict(deepseek_tensors), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="session")
def deepseek(deepseek_folder: Path) -> Janus:
    """The golden model, loaded from DeepSeek's layout."""
    return load(deepseek_folder, device="cpu")


@pytest.fixture(scope="session")
def converted_folder(tmp_path_factory: pytest.TempPathFactory, deepseek: Janus) -> Path:
    """The golden model, written in transformers' layout."""
    folder = tmp_path_factory.mktemp("converted") / "janus_tiny"
    save(deepseek, folder)
    return folder


@pytest.fixture(scope="session")
def small_recipe() -> TinyRecipe:
    """A recipe that trains in seconds."""
    return load_recipe(str(Path(__file__).parent / "small.toml"))


@pytest.fixture(scope="session")
def small_tokenizer(small_recipe: TinyRecipe) -> PreTrainedTokenizerFast:
    """A text tokenizer over captions of the world."""
    source = SceneSource(World(), 0, small_recipe.image_size)
    return train_text_tokenizer((source.caption(i, 0) for i in range(200)), small_recipe.language.vocab_size)


@pytest.fixture(scope="session")
def small_folder(
    tmp_path_factory: pytest.TempPathFactory, small_recipe: TinyRecipe, small_tokenizer: PreTrainedTokenizerFast
) -> Path:
    """Untrained 64 × 64 checkpoint with tokenizer and settings; image head and embeddings scaled to spread logits."""
    network = build_network(small_recipe, small_tokenizer)
    with torch.no_grad():
        network.model.generation_head.vision_head.weight.mul_(200)
        network.model.language_model.embed_tokens.weight.mul_(50)
    folder = tmp_path_factory.mktemp("small") / "small"
    sampling = SamplingParams(**small_recipe.sampling.model_dump())
    save(
        Janus("small", network.eval(), small_tokenizer, special_ids(small_tokenizer.backend_tokenizer), sampling),
        folder,
    )
    return folder


@pytest.fixture(scope="session", params=["deepseek", "converted"])
def golden_janus(request: pytest.FixtureRequest, deepseek: Janus, converted_folder: Path) -> Janus:
    """The golden model, loaded from DeepSeek's layout and from transformers' after conversion."""
    return deepseek if request.param == "deepseek" else load(converted_folder, device="cpu")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Call a command's `main` in this process, which has imported everything: a new one takes seconds for that."""

    def call(main: Callable[[], None], *arguments: str | Path) -> Ended:
        monkeypatch.setattr("sys.argv", ["focusdiff", *map(str, arguments)])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        assert isinstance(code, int), code
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return call


@pytest.fixture(scope="session", autouse=True)
def _forked_engines() -> Iterator[None]:
    """Fork engines, and the ablation's runs, from a process that has imported everything: a new one takes seconds.

    Servers that run in processes of their own start theirs as always.
    """
    multiprocessing.set_forkserver_preload(["serve.backends.child", "train.ablation.run"])
    with pytest.MonkeyPatch.context() as patch:
        forked = multiprocessing.get_context("forkserver")
        patch.setattr("serve.child_process._PROCESSES", forked)
        patch.setattr("train.ablation.ablation._PROCESSES", forked)
        yield


@pytest.fixture
def endpoint() -> Iterator[VlmEndpoint]:
    """A vision-language model behind an endpoint on this machine."""
    endpoint = VlmEndpoint()
    yield endpoint
    endpoint.close()


class Served:
    """Serves an application on a socket, from this process, while the `with` block runs."""

    def __init__(self, app: FastAPI, models: Registry) -> None:
        self.models = models
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5, ws="none"))
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._listener]})

    def __enter__(self) -> "Served":
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join()
        self._listener.close()

    def post(self, path: str, body: Mapping[str, Any], **more: Any) -> httpx.Response:
        """POST `body` as JSON on a new connection."""
        return httpx.post(self.url + path, json=dict(body), timeout=60, **more)


@pytest.fixture
def make_app(tmp_path: Path) -> Callable[..., tuple[FastAPI, Registry]]:
    """Make an application from backends and settings; returns it and its registry of models."""

    def make(*backends: Backend, upscaler: Upscaler | None = None, **settings: Any) -> tuple[FastAPI, Registry]:
        sources = [ModelSource(name=backend.info.name, source=backend.info.name) for backend in backends]
        chosen = Settings(models=tuple(sources), **settings)
        triton = chosen.backend == "triton"
        loader = TritonLoader(chosen) if triton else ProcessLoader(chosen, on_death=lambda: None)
        models = Registry(loader, aliases=chosen.aliases)
        for source, backend in zip(sources, backends, strict=True):
            models.add(source, backend)
        store = Store(chosen.store or str(tmp_path / "store"), seconds=chosen.store_seconds, limit=2**20)
        return create_app(chosen, models, store, Metrics(models), upscaler=upscaler), models

    return make


@pytest.fixture
def serve_on_socket(make_app: Callable[..., tuple[FastAPI, Registry]]) -> Callable[..., Served]:
    """`make_app` on a socket: `with serve_on_socket(backend, …) as served`; closes the backends at the end."""
    return lambda *backends, **settings: Served(*make_app(*backends, **settings))


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """The small checkpoint with a guidance scale of 1."""
    janus = load(small_folder, device="cpu")
    folder = tmp_path_factory.mktemp("other") / "other"
    save(replace(janus, sampling=janus.sampling.override(guidance_scale=1)), folder)
    return folder


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory, small_folder: Path, other_folder: Path) -> Iterator[TritonProcess]:
    """A Triton server of the small checkpoint and the other, with four slots and a queue of twenty images each."""
    models = {"small": small_folder, "other": other_folder}
    triton = TritonProcess(tmp_path_factory.mktemp("triton"), models, "--slots", "4", "--queue", "20")
    triton.wait_until_ready()
    yield triton
    triton.close()


@pytest.fixture(scope="module", params=["engine", pytest.param("triton", marks=needs_triton)])
def load_backend(
    request: pytest.FixtureRequest, small_folder: Path, other_folder: Path
) -> Iterator[Callable[[str], Backend]]:
    """Load the model "small" or "other", into an engine of this process and behind a Triton server."""
    opened: list[Backend] = []
    if request.param == "triton":
        triton: TritonProcess = request.getfixturevalue("triton")
        loader = TritonLoader(Settings(backend="triton", triton_url=(triton.url,)))

    def load_one(name: str) -> Backend:
        if request.param == "triton":
            backend: Backend = loader(ModelSource(name=name, source=name))
        else:
            janus = load({"small": small_folder, "other": other_folder}[name], device="cpu")
            backend = ThreadBackend(janus, slots=4, queue_limit=20)
        opened.append(backend)
        return backend

    yield load_one
    for backend in opened:
        backend.close()


@pytest.fixture(scope="module")
def either_backend(load_backend: Callable[[str], Backend]) -> Backend:
    """Backend of the small checkpoint, with an engine of this process and behind a Triton server."""
    return load_backend("small")


@pytest.fixture
def small_backend(small_folder: Path) -> Iterator[ThreadBackend]:
    """Backend of the small checkpoint with 16 slots."""
    backend = ThreadBackend(load(small_folder, device="cpu"))
    yield backend
    backend.close()
