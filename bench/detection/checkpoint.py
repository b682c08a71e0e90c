"""Checkpoints in transformers' layout: from a folder or the hub, with errors that name the part."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from bench.detection.errors import GenEvalError
from model.errors import first_line


def name_of(source: str) -> str:
    """Name of a checkpoint in results: its hub id, or the name of its folder."""
    folder = Path(source).expanduser()
    return folder.resolve().name if folder.is_dir() else source


def load_part(source: str, what: str, load: Callable[..., Any], **settings: Any) -> Any:
    """Call one of transformers' loaders for a folder or a hub id.

    Raises:
        GenEvalError: it fails; transformers' errors have no common base class.
    """
    folder = Path(source).expanduser()
    try:
        return load(str(folder) if folder.is_dir() else source, **settings)
    except Exception as error:
        raise GenEvalError(f"{source}: {what}: {first_line(error)}") from error


def load_network(source: str, kind: Any, *, model_type: str, device: torch.device) -> PreTrainedModel:
    """Load a network in float32, in evaluation mode: thresholds need every digit of a score.

    Raises:
        GenEvalError: it is of another type, a file is missing or damaged, or a weight is missing.
    """
    transformers_logging.disable_progress_bar()
    config = load_part(source, "config.json", AutoConfig.from_pretrained)
    if config.model_type != model_type:
        raise GenEvalError(f"{source}: must be a {model_type} checkpoint, not {config.model_type}")
    network, info = load_part(
        source, "the weights", kind.from_pretrained, dtype=torch.float32, output_loading_info=True
    )
    if info["missing_keys"]:
        raise GenEvalError(f"{source}: the weights lack {min(info['missing_keys'])}")
    return network.to(device).eval()


def digest(network: PreTrainedModel) -> str:
    """First 16 hex digits of the SHA-256 of all names and weights."""
    found = sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
