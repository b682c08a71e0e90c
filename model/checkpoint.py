"""Checkpoints in and out: DeepSeek's layout, transformers' layout, shipped names, hub ids."""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from model.decoder_weights import check_whole
from model.deepseek import convert_config, convert_tensors, is_deepseek
from model.errors import CheckpointError, first_line
from model.image_tokenizer import lay_out
from model.janus import Janus
from model.names import SHIPPED, shipped_names
from model.params import SamplingParams
from model.prompt import IMAGE_PLACEHOLDER, SpecialIds, special_ids, token_id
from model.vector_math import settle_vector_math
from model.weights import read_file, read_tensors

Device = Literal["auto", "cpu", "cuda", "mps"] | str
DType = Literal["auto", "source", "float32", "bfloat16", "float16"]
RECIPE_FILE = "focusdiff.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.bin", "tokenizer*"]


def load(
    path_or_name: str | Path,
    *,
    device: Device = "auto",
    dtype: DType = "auto",
    tokenizer: str | Path | None = None,
    overlay: str | Path | None = None,
    revision: str | None = None,
) -> Janus:
    """A Janus from a folder, a shipped name, or a hub id; DeepSeek's or transformers' layout.

    Args:
        path_or_name: folder, name of a shipped checkpoint, or hub id "owner/name".
        device: "auto" takes cuda, then mps, then cpu.
        dtype: "auto" is bfloat16 on cuda and float32 elsewhere; "source" is what the files hold.
        tokenizer: folder or hub id to take the tokenizer from; needed where the checkpoint has none.
        overlay: a .pt state dict whose tensors replace the checkpoint's (FocusDiff's training output).
        revision: of the hub repository.

    Raises:
        CheckpointError: one line that names the file and what is missing or wrong.
    """
    name, folder = find_folder(str(path_or_name), revision)
    chosen = choose_device(device)
    config = read_config(folder)
    expected = parameter_shapes(config)
    tensors = convert_tensors(read_tensors(folder), source=str(folder))
    if overlay is not None:
        laid = convert_tensors(read_file(Path(overlay)), source=str(overlay))
        _check_shapes(laid, expected, source=str(overlay))
        if unknown := sorted(laid.keys() - expected.keys()):
            raise CheckpointError(f"{overlay}: tensor {unknown[0]} is not part of the model")
        tensors |= laid
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"{folder}: tensor {missing[0]} is missing")
    _check_shapes(tensors, expected, source=str(folder))
    words = _load_tokenizer(Path(tokenizer) if tokenizer else folder, required=tokenizer is not None)
    if words is not None and len(words) > config.text_config.vocab_size:
        raise CheckpointError(
            f"{tokenizer or folder}: the tokenizer has {len(words)} tokens, the model only {config.text_config.vocab_size}"
        )
    ids = special_ids(words) if words else _ids_of_config(folder, config)
    if words is not None:
        config.text_config.bos_token_id, config.text_config.pad_token_id = ids.bos, ids.pad
        config.text_config.eos_token_id = words.eos_token_id
        config.image_token_id = token_id(words, IMAGE_PLACEHOLDER) or config.image_token_id
    weights = {name: tensors[name] for name in expected}
    network = _build(config, weights, chosen, choose_dtype(dtype, chosen, tensors["lm_head.weight"].dtype))
    recipe = _read_recipe(folder)
    network.generation_config = _generation_config(config, ids, recipe)
    return Janus(name, network, words, ids, recipe)


def load_from(arguments: argparse.Namespace) -> Janus:
    """The model that a command line names (see `model.cli.add_model_arguments`)."""
    return load(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        tokenizer=arguments.tokenizer,
        overlay=arguments.weights,
        revision=arguments.revision,
    )


def save(janus: Janus, folder: Path) -> None:
    """Write a checkpoint in transformers' layout, with tokenizer, generation settings and recipe.

    The folder appears complete or not at all; an existing one is refused.

    Raises:
        CheckpointError: the folder exists, or cannot be written (no room, no rights), or the model is int8 only.
    """
    check_whole(janus.network)
    check_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(janus, partial)
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {first_line(error)}") from None


def check_new(folder: Path) -> None:
    """Refuse a folder that is there already.

    Raises:
        CheckpointError: it exists.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists; choose a new folder")


def _write(janus: Janus, folder: Path) -> None:
    folder.chmod(0o755)
    logging.disable_progress_bar()
    janus.network.generation_config = _generation_config(janus.network.config, janus.ids, janus.recipe)
    janus.network.save_pretrained(folder)
    if janus.tokenizer is not None:
        janus.tokenizer.save_pretrained(folder)
    (folder / RECIPE_FILE).write_text(json.dumps({"sampling": janus.recipe.as_dict()}, indent=2) + "\n")
    for path in folder.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def find_folder(name: str, revision: str | None) -> tuple[str, Path]:
    """What a model is called, and where it is."""
    if name in shipped_names():
        return name, SHIPPED / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve().name, path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not path.exists():
        return name, _download(name, revision)
    if path.exists():
        raise CheckpointError(
            f"{name} is a file: give the checkpoint's folder (a .pt state dict is laid over one with --weights)"
        )
    raise CheckpointError(f"no model {name!r}: give a folder, a hub id (owner/name){_shipped()}")


def _shipped() -> str:
    return "".join(f", or {known}" for known in shipped_names()) or " (make a small one: make train)"


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_PATTERNS))
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise CheckpointError(
            f"{name}: neither a folder here nor to be had from the hub ({first_line(error)})"
        ) from None
    except GatedRepoError:
        raise CheckpointError(f"{name}: is gated; accept its terms on the hub and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{name}: no such repository on the hub, or a private one (set HF_TOKEN); give a folder, a hub id{_shipped()}"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{name}: no revision {revision!r} on the hub") from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(f"{name}: the hub refused ({first_line(error)})") from None
    except Exception as error:  # a full disk, and whatever else the hub's several transports raise
        raise CheckpointError(f"{name}: cannot be downloaded ({first_line(error)})") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: no config.json") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return content


def read_config(folder: Path) -> JanusConfig:
    """A checkpoint's configuration, in transformers' terms; raises CheckpointError, naming the file."""
    path = folder / "config.json"
    settings = _read_json(path)
    try:
        if is_deepseek(settings):
            return convert_config(settings, file=str(path))
        if settings.get("model_type") != "janus":
            raise CheckpointError(f"{path}: model_type is {settings.get('model_type')!r}, not a Janus")
        config: JanusConfig = JanusConfig.from_pretrained(folder)
    except CheckpointError:
        raise
    except Exception as error:  # the library's checks of values have no common base
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
    return config


def choose_device(device: Device) -> torch.device:
    """A device that is there, ready to compute; "auto" takes cuda, then mps, then cpu.

    Raises:
        CheckpointError: this machine does not have it.
    """
    settle_vector_math()
    here = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if device == "auto":
        return torch.device(next(kind for kind, count in here.items() if count))
    try:
        chosen = torch.device(device)
    except RuntimeError:  # not a name that PyTorch knows
        chosen = None
    if chosen is None or (chosen.index or 0) >= here.get(chosen.type, 0):
        raise CheckpointError(f"no device {device!r} here: give auto, or one of cpu, cuda and mps")
    return chosen


def choose_dtype(dtype: str, device: torch.device, held: torch.dtype) -> torch.dtype:
    """The dtype of a name; `held` is what the files have. Raises CheckpointError for other names."""
    if dtype == "source":
        return held
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(dtype)
    if chosen is None:
        raise CheckpointError(f"no dtype {dtype!r}: auto, float32, bfloat16 or float16")
    return chosen


def parameter_shapes(config: JanusConfig) -> dict[str, torch.Size]:
    """Names and shapes of every tensor of a network."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in JanusForConditionalGeneration(config).state_dict().items()}


def _check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], *, source: str) -> None:
    for name, tensor in tensors.items():
        if name in expected and tensor.shape != expected[name]:
            raise CheckpointError(f"{source}: tensor {name} has shape {list(tensor.shape)}, not {list(expected[name])}")


def _build(
    config: JanusConfig, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> JanusForConditionalGeneration:
    """A network with exactly these tensors in it."""
    logging.disable_progress_bar()
    network = JanusForConditionalGeneration.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
    network.eval().requires_grad_(False).to(device)
    lay_out(network.model.vqmodel, device)
    return network


def _load_tokenizer(folder: Path, *, required: bool) -> PreTrainedTokenizerBase | None:
    local = folder.is_dir()
    if local and not any((folder / name).exists() for name in _TOKENIZER_FILES):
        if required:
            raise CheckpointError(f"{folder}: no tokenizer.json")
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the library raises anything at all on a damaged file
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({first_line(error)})") from None
    return tokenizer


def _ids_of_config(folder: Path, config: JanusConfig) -> SpecialIds:
    """Framing ids of a checkpoint without tokenizer: from its generation settings, else by convention."""
    text = config.text_config
    generation = folder / "generation_config.json"
    kwargs = _read_json(generation).get("generation_kwargs", {}) if generation.exists() else {}
    boi = kwargs.get("boi_token_id", (text.eos_token_id or 2) + 1)
    return SpecialIds(bos=text.bos_token_id, pad=text.pad_token_id or 0, begin_of_image=boi)


def _generation_config(config: JanusConfig, ids: SpecialIds, recipe: SamplingParams) -> GenerationConfig:
    """What transformers' own generate needs to know to make pictures by the recipe."""
    sampling = {"temperature": recipe.temperature, "top_k": recipe.top_k, "top_p": recipe.top_p}
    return GenerationConfig(
        bos_token_id=ids.bos,
        pad_token_id=ids.pad,
        eos_token_id=config.text_config.eos_token_id,
        guidance_scale=recipe.guidance_scale,
        do_sample=recipe.temperature > 0,
        # it refuses to be saved with filters that greedy decoding would not use
        **(sampling if recipe.temperature > 0 else {}),
        generation_kwargs={"boi_token_id": ids.begin_of_image},
    )


def _read_recipe(folder: Path) -> SamplingParams:
    path = folder / RECIPE_FILE
    if not path.exists():
        return SamplingParams()
    try:
        return SamplingParams(**_read_json(path)["sampling"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: sampling settings do not fit ({error})") from None
