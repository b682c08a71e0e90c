"""Read a checkpoint's configuration."""

import json
from pathlib import Path
from typing import Any

from transformers import JanusConfig

from model.checkpoints.deepseek import convert_config, is_deepseek
from model.errors import CheckpointError


def read_config(folder: Path) -> JanusConfig:
    """Read config.json of either layout as transformers' configuration; raises CheckpointError that names the file."""
    path = folder / "config.json"
    settings = read_json(path)
    try:
        if is_deepseek(settings):
            return convert_config(settings, file=str(path))
        if settings.get("model_type") != "janus":
            raise CheckpointError(f"{path}: model_type is {settings.get('model_type')!r}, not a Janus")
        config: JanusConfig = JanusConfig.from_pretrained(folder)
    except CheckpointError:
        raise
    except Exception as error:  # transformers' validation errors have no common base class
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file of a checkpoint; raises CheckpointError that names the file."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: no config.json") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return content
