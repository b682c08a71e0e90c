"""Triton's model repository: one folder for each model, with its configuration and the code that Triton calls.

REPOSITORY/MODEL/config.pbtxt   inputs, outputs, and our settings as JSON
REPOSITORY/MODEL/1/model.py     imports `serve.triton.model`
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_UINT8, ModelConfig, ModelInstanceGroup

from model.checkpoints.shipped import shipped_names
from pairs.files import write_atomically
from serve.backends.triton.names import triton_name
from serve.settings.engine import EngineSettings
from serve.settings.model_source import ModelSource
from serve.settings.reading import ConfigError

_OF_ONE_MODEL = {"models", "weights", "tokenizer", "revision"}  # in a source
_MODEL = """\"\"\"Written by focusdiff-triton. Triton calls the class that is imported here.\"\"\"

from serve.triton.model import TritonPythonModel  # noqa: F401
"""


def write_repository(folder: Path, settings: EngineSettings) -> list[str]:
    """Write the repository of all models of the settings; returns the models' names in Triton.

    Raises:
        ConfigError: a path does not exist, two names are alike, or a memory limit is given for several models.
        OSError: a file cannot be written.
    """
    names = [triton_name(source.name) for source in settings.sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"two models are called {min(twice)!r} in Triton: give one of them another name, as NAME=SOURCE"
        )
    if settings.memory_gib is not None and len(names) > 1:
        raise ConfigError(
            "memory_gib: each model of Triton has a limit of its own; give it to a repository of one model"
        )
    _remove_others(folder, names)
    for source, name in zip(settings.sources, names, strict=True):
        only = _settings_of(source, settings)
        version = folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        _write(version / "model.py", _MODEL)
        _write(folder / name / "config.pbtxt", text_format.MessageToString(_config(name, only)))
    return names


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """Remove models that an earlier call has written, and that are no longer named: Triton would load them."""
    for code in folder.glob("*/1/model.py"):
        model = code.parent.parent
        if model.name not in names and code.read_text() == _MODEL:
            shutil.rmtree(model)


def _settings_of(source: ModelSource, settings: EngineSettings) -> EngineSettings:
    """Settings of one model."""
    common = settings.model_dump(include=set(EngineSettings.model_fields) - _OF_ONE_MODEL)
    return EngineSettings(**common, models=(_placed(source),))


def _placed(source: ModelSource) -> ModelSource:
    """Source with absolute paths: Triton runs in another folder.

    Raises:
        ConfigError: a path that does not exist.
    """
    places = {"source": source.source, "weights": source.weights, "tokenizer": source.tokenizer}
    found: dict[str, str | Path] = {}
    for field, place in places.items():
        if place is None or place in shipped_names():
            continue
        path = Path(place).expanduser()
        if path.exists():
            found[field] = path.resolve() if field == "weights" else str(path.resolve())
        elif field == "weights" or str(place).startswith((".", "/", "~")):
            raise ConfigError(f"{field} of {source.name}: no such file or folder: {place}")
    return source.model_copy(update=found)


def _config(name: str, settings: EngineSettings) -> ModelConfig:
    """Configuration of one model. Its instance is on the CPU: the engine, in its own process, has the device."""
    config = ModelConfig(name=name, backend="python", max_batch_size=0)
    config.model_transaction_policy.decoupled = True
    config.input.add(name="request", data_type=TYPE_UINT8, dims=[-1])
    config.output.add(name="event", data_type=TYPE_UINT8, dims=[-1])
    config.output.add(name="picture", data_type=TYPE_UINT8, dims=[-1, -1, 3])
    config.output.add(name="file", data_type=TYPE_UINT8, dims=[-1])
    config.instance_group.add(kind=ModelInstanceGroup.KIND_CPU, count=1)
    config.parameters["settings"].string_value = settings.model_dump_json()
    return config


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text))
