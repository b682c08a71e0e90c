"""Read tensors from safetensors or pickle files, single or sharded, without running code from them."""

import json
import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.errors import CheckpointError

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint folder.

    Raises:
        CheckpointError: there are no weights, a shard is missing, or a file is damaged or unsafe.
    """
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        tensors |= read_file(path)
    return tensors


def read_file(path: Path) -> dict[str, Tensor]:
    """Read the tensors of one file.

    Raises:
        CheckpointError: the file is missing, damaged or unsafe, or is not a state dict.
    """
    content = read_content(path)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: is not a state dict (a mapping from names to tensors)")
    return content


def read_content(path: Path) -> Any:
    """Read one file, .safetensors, or any other suffix (.bin, .pt, .pth) with `weights_only`.

    Raises:
        CheckpointError: the file is missing, damaged or unsafe.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings(action="ignore"):  # PyTorch warns of pickles that are refused below
            # files older than PyTorch 1.6 are not zip archives and cannot be memory-mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or cut short ({error})") from None
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path}: holds something other than tensors, and is not loaded for safety") from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or cut short ({str(error).splitlines()[0]})") from None


def _weight_files(folder: Path) -> Iterable[Path]:
    for name in _INDEXES:
        index = folder / name
        if index.exists():
            try:
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError):
                raise CheckpointError(f"{index}: is not a weight index") from None
            missing = [shard for shard in shards if not (folder / shard).exists()]
            if missing:
                raise CheckpointError(f"{folder}: {missing[0]} is missing, which {name} names")
            return [folder / shard for shard in shards]
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        files = sorted(folder.glob(pattern))
        if files:
            return files
    raise CheckpointError(f"{folder}: no weights (*.safetensors or pytorch_model*.bin)")
