"""Model repository, wire format and clients of Triton."""

import io
import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import SecretStr
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.grpc.model_config_pb2 import TYPE_UINT8, ModelConfig
from tritonclient.utils import InferenceServerException

from bench.speed.server_process import free_port
from model.checkpoints.load import load
from model.errors import PromptError
from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.prompt import encode_prompt
from pairs.picture_file import read_metadata
from serve.backends.registry import Registry
from serve.backends.triton.loader import TritonLoader
from serve.backends.triton.wire import event_as_json, event_of_json
from serve.engine.events import Ended, Event, Failed, Finished, Preview, Queued, Started
from serve.http.app import create_app
from serve.http.metrics import Metrics
from serve.http.store import Store
from serve.settings.engine import EngineSettings
from serve.settings.model_source import ModelSource
from serve.settings.server import Settings
from serve.triton import command as triton_command
from serve.triton.repository import write_repository
from tests.ended import Ended as CommandEnded
from tests.serve_process import IMAGES, ServeProcess
from tests.tools import needs_triton
from tests.triton_process import TritonProcess

PICTURE = Image.new("RGB", (4, 4), (1, 2, 3))
EVENTS: list[Event] = [
    Queued(3, 0.25),
    Started(1),
    Preview(1, 4, PICTURE),
    Finished(0, PICTURE, (3, 1, 2), (-0.5, -1.0, -0.25)),
    Failed(2, "the model gave a logit that is not finite"),
    Ended(),
    Ended("deadline", "the deadline passed"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_cross_unchanged(event: Event) -> None:
    plain = json.loads(json.dumps(event_as_json(event)))
    assert event_of_json(plain, getattr(event, "picture", None)) == event


@given(st.text(max_size=60))
def test_a_front_encodes_prompts_as_the_server_does(tiny_tokenizers: Any, text: str) -> None:
    def encoded(tokenizer: Tokenizer) -> list[int] | str:
        try:
            return encode_prompt(tokenizer, text)
        except PromptError as error:
            return str(error)

    ours, theirs = tiny_tokenizers
    assert encoded(ours) == encoded(theirs)


@pytest.fixture(scope="module")
def tiny_tokenizers() -> tuple[Tokenizer, Tokenizer]:
    """The shipped tokenizer, and the same after it has crossed the wire."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained("model/shipped/tiny").backend_tokenizer
    return tokenizer, Tokenizer.from_str(tokenizer.to_str())


def test_a_repository_names_inputs_outputs_and_the_engines_settings(tmp_path: Path, small_folder: Path) -> None:
    """Paths are absolute, since Triton runs elsewhere; what all models share is in each."""
    sources = (ModelSource(name="owner/small", source=str(small_folder)), ModelSource(name="tiny", source="tiny"))
    settings = EngineSettings(models=sources, slots=3, device="cpu", revision="main")
    assert write_repository(tmp_path, settings) == ["owner--small", "tiny"]
    for name, source in zip(("owner--small", "tiny"), settings.sources, strict=True):
        config = text_format.Parse((tmp_path / name / "config.pbtxt").read_text(), ModelConfig())
        assert (config.name, config.backend, config.max_batch_size) == (name, "python", 0)
        assert config.model_transaction_policy.decoupled
        assert [(one.name, one.data_type) for one in config.input] == [("request", TYPE_UINT8)]
        shapes = {one.name: list(one.dims) for one in config.output}
        assert shapes == {"event": [-1], "picture": [-1, -1, 3], "file": [-1]}
        read = EngineSettings.model_validate_json(config.parameters["settings"].string_value)
        assert (read.slots, read.device, read.sources) == (3, "cpu", (source,))
        assert "TritonPythonModel" in (tmp_path / name / "1" / "model.py").read_text()


def test_a_model_that_is_no_longer_named_is_removed_and_nothing_else(tmp_path: Path) -> None:
    sources = (ModelSource(name="tiny", source="tiny"), ModelSource(name="base", source="tiny-base"))
    write_repository(tmp_path, EngineSettings(models=sources))
    foreign = tmp_path / "resnet" / "1"
    foreign.mkdir(parents=True)
    (foreign / "model.py").write_text("class TritonPythonModel: ...")
    write_repository(tmp_path, EngineSettings(models=sources[:1]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resnet", "tiny"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "./nothing-here"], "source of nothing-here: no such file or folder: ./nothing-here"),
        (["--weights", "none.pt"], "weights of tiny: no such file or folder: none.pt"),
        (["--queue", "3"], "queue: "),
        (["--slots", "many"], "slots: "),
        (["--model", "tiny", "--model", "tiny"], "two models are called 'tiny'"),
        (["--model", "a/b=tiny", "--model", "a--b=tiny"], "two models are called 'a--b' in Triton"),
        (["--model", "tiny", "--model", "tiny-base", "--memory-gib", "3"], "memory_gib: each model of Triton has"),
    ],
)
def test_a_repository_that_cannot_be_written_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, command: Callable[..., CommandEnded]
) -> None:
    ended = command(triton_command.main, tmp_path / "repository", *arguments)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert not (tmp_path / "repository").exists()


@needs_triton
def test_any_client_of_triton_gets_files_with_their_settings(triton: TritonProcess, small_folder: Path) -> None:
    """A prompt as text, and the picture of the reference loop as a PNG."""
    wanted = {"prompt": "a blue star", "seeds": [5], "guidance_scale": 3, "format": "png", "preview_rows": [4]}
    answers = answers_of(triton, {"kind": "draw", **wanted})
    assert [event["type"] for event, _ in answers] == ["queued", "started", "preview", "finished", "ended"]
    file = io.BytesIO(answers[3][1])
    janus = load(small_folder, device="cpu")
    params = janus.sampling.override(guidance_scale=3.0)
    codes = generate(janus, ["a blue star"], seeds=[5], **params.as_dict())  # type: ignore[arg-type]
    assert Image.open(file).tobytes() == ImageTokenizer(janus).images(codes).numpy()[0].tobytes()
    assert read_metadata(file) == {"model": "small", "seed": 5, **params.as_dict()}


@needs_triton
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "red " * 500}, "prompt is "),
        ({"prompt": [1]}, "prompt must have 3 to 256 token ids, not 1"),
        ({"prompt": [0, 1, 10**6]}, "prompt has token id 1000000; there are "),
        ({"negative_prompt": [0, 1, -1]}, "negative_prompt has token id -1"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [*range(11)]}, "seeds: "),
        ({"seeds": [-1]}, "seeds.0: "),
        ({"guidance_scale": 0.5}, "guidance_scale must be from 1 to 20, not 0.5"),
        ({"top_k": 10**6}, "top_k must be at most "),
        ({"format": "gif"}, "format: "),
        ({"seconds": -1}, "seconds: "),
        ({"seconds": float("nan")}, "seconds: "),
        ({"seconds": float("inf")}, "seconds: "),
        ({"preview_rows": [0]}, "preview_rows.0: "),
        ({"prompt": "x" * 5000}, "prompt."),
        ({"prompt": ["x"] * 100_000}, "request: at most 262144 bytes are allowed, got "),
        ({"colour": "red"}, "colour: "),
        ({"kind": "paint"}, "request: "),
    ],
)
def test_a_bad_request_is_refused_with_its_field(triton: TritonProcess, change: dict[str, Any], said: str) -> None:
    body = {"kind": "draw", "prompt": "a blue star", "seeds": [1], **change}
    with pytest.raises(InferenceServerException) as refused:
        answers_of(triton, body)
    refusal = json.loads(refused.value.message())
    assert refusal["cause"] == "invalid"
    assert said in refusal["reason"]


def answers_of(triton: TritonProcess, request: object) -> list[tuple[dict[str, Any], bytes]]:
    """Events and files that Triton's own client gets for a request as JSON; raises the error that it gets."""
    content = np.frombuffer(json.dumps(request).encode(), np.uint8)
    tensor = InferInput("request", [content.size], "UINT8")
    tensor.set_data_from_numpy(content)
    answers: list[tuple[dict[str, Any], bytes]] = []
    errors: list[InferenceServerException] = []

    def take(result: Any, error: InferenceServerException | None) -> None:
        if error is not None:
            errors.append(error)
            return
        file = result.as_numpy("file")
        answers.append((json.loads(result.as_numpy("event").tobytes()), b"" if file is None else file.tobytes()))

    with InferenceServerClient(triton.url) as client:
        client.start_stream(take)
        client.async_stream_infer("small", [tensor])
        client.stop_stream()  # when all answers have come
    if errors:
        raise errors[0]
    return answers


def completed(stream: httpx.Response) -> list[str]:
    """Base64 of the pictures that a stream ends with."""
    data = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")]
    return [event["b64_json"] for event in data if event["type"] == "image_generation.completed"]


@needs_triton
def test_a_front_waits_for_its_server_and_stops_with_requests_under_way(small_folder: Path, tmp_path: Path) -> None:
    """The front starts first; told to stop, it answers what it has accepted, and ends with code 0."""
    triton = TritonProcess(tmp_path, {"small": small_folder}, "--slots", "2")
    with closing(triton), ServeProcess("small", "--backend", "triton", "--triton-url", triton.url) as front:
        front.wait_until_ready()
        with ExitStack() as asked:
            body = {"prompt": "a blue star", "n": 10, "seed": 1, "stream": True, "partial_images": 1}
            streams = [
                asked.enter_context(httpx.stream("POST", front.url + IMAGES, json=body, timeout=120)) for _ in range(3)
            ]
            front.process.terminate()  # all three are accepted, and the last one waits for the others' slots
            answers = [sorted(completed(stream)) for stream in streams]  # they end as their guesses turn out right
        assert answers[0] == answers[1] == answers[2]
        assert len(set(answers[0])) == 10
        assert front.wait() == 0, front.log
        assert "Traceback" not in front.log


def test_a_front_that_never_found_a_server_stops_at_once() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with ServeProcess("small", "--backend", "triton", "--triton-url", nobody) as front:
        while not front.live:
            assert front.process.poll() is None, front.log
            time.sleep(0.05)
        assert front.status == "loading"
        front.process.terminate()
        assert front.wait() == 0, front.log


@needs_triton
def test_models_of_triton_are_loaded_and_unloaded_while_the_front_runs(triton: TritonProcess, tmp_path: Path) -> None:
    """An unknown model, or one of a server that does not answer, is refused with the reason; nothing waits for it."""
    settings = Settings(
        backend="triton",
        triton_url=(triton.url,),
        models=(ModelSource(name="small", source="small"),),
        admin_key=SecretStr("key"),
    )
    loader = TritonLoader(settings)
    models = Registry(loader)
    models.add(settings.models[0], loader(settings.models[0]))
    store = Store(str(tmp_path), seconds=60, limit=2**20)
    headers = {"Authorization": "Bearer key"}
    with TestClient(create_app(settings, models, store, Metrics(models)), headers=headers) as client:
        loaded = client.post("/admin/models", json={"source": "other", "name": "public"})
        assert (loaded.status_code, loaded.json()["id"]) == (200, "public")
        assert loaded.json()["sampling"]["guidance_scale"] == 1
        body = {"prompt": "a blue star", "seed": 1}
        both = [client.post(IMAGES, json={**body, "model": name}).json() for name in ("small", "public")]
        assert both[0]["data"] != both[1]["data"]
        refused = client.post("/admin/models", json={"source": "nobody"})
        assert refused.status_code == 400
        assert "no model 'nobody' there" in refused.json()["error"]["message"]
        assert client.delete("/admin/models/small").status_code == 204
        assert client.post(IMAGES, json={**body, "model": "small"}).status_code == 400
        assert client.post(IMAGES, json=body).json()["data"] == both[1]["data"]
