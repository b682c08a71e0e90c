"""Load checkpoints of DeepSeek's or transformers' layout from a folder, a shipped name or a hub id."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerBase
from transformers.utils import logging

from model.architecture import parameter_shapes
from model.checkpoints.config import read_config, read_json
from model.checkpoints.deepseek import convert_tensors
from model.checkpoints.hub import find_folder
from model.checkpoints.settings_file import generation_config, read_reward_judge, read_sampling
from model.checkpoints.tensors import read_file, read_tensors
from model.device import Device, DType, choose_device, choose_dtype
from model.errors import CheckpointError, first_line
from model.image_tokenizer import use_fast_memory_format
from model.janus import Janus
from model.prompt import IMAGE_PLACEHOLDER, SpecialIds, special_ids, token_id

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def load(
    path_or_name: str | Path,
    *,
    device: Device = "auto",
    dtype: DType = "auto",
    tokenizer: str | Path | None = None,
    overlay: str | Path | None = None,
    revision: str | None = None,
) -> Janus:
    """Load a Janus from a folder, a shipped name or a hub id, in DeepSeek's or transformers' layout.

    Args:
        path_or_name: folder, name of a shipped checkpoint, or hub id "owner/name".
        device: "auto" takes cuda, then mps, then cpu.
        dtype: "auto" is bfloat16 on cuda and float32 elsewhere; "source" is the dtype of the files.
        tokenizer: folder or hub id to take the tokenizer from; needed if the checkpoint has none.
        overlay: a .pt state dict whose tensors replace the checkpoint's (FocusDiff's training output).
        revision: of the hub repository.

    Raises:
        CheckpointError: something is missing or wrong; the message is one line and names the file.
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
    text_tokenizer = _load_tokenizer(Path(tokenizer) if tokenizer else folder, required=tokenizer is not None)
    if text_tokenizer is not None and len(text_tokenizer) > config.text_config.vocab_size:
        raise CheckpointError(
            f"{tokenizer or folder}: the tokenizer has {len(text_tokenizer)} tokens, the model only {config.text_config.vocab_size}"
        )
    ids = special_ids(text_tokenizer.backend_tokenizer) if text_tokenizer else _ids_of_config(folder, config)
    if text_tokenizer is not None:
        config.text_config.bos_token_id, config.text_config.pad_token_id = ids.bos, ids.pad
        config.text_config.eos_token_id = text_tokenizer.eos_token_id
        config.image_token_id = token_id(text_tokenizer.backend_tokenizer, IMAGE_PLACEHOLDER) or config.image_token_id
    weights = {name: tensors[name] for name in expected}
    network = _build(config, weights, chosen, choose_dtype(dtype, chosen, tensors["lm_head.weight"].dtype))
    sampling = read_sampling(folder)
    network.generation_config = generation_config(config, ids, sampling)
    return Janus(name, network, text_tokenizer, ids, sampling, read_reward_judge(folder))


def load_from(arguments: argparse.Namespace) -> Janus:
    """Load the model that a command line names (see `model.cli.add_model_arguments`)."""
    return load(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        tokenizer=arguments.tokenizer,
        overlay=arguments.weights,
        revision=arguments.revision,
    )


def _check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], *, source: str) -> None:
    for name, tensor in tensors.items():
        if name in expected and tensor.shape != expected[name]:
            raise CheckpointError(f"{source}: tensor {name} has shape {list(tensor.shape)}, not {list(expected[name])}")


def _build(
    config: JanusConfig, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> JanusForConditionalGeneration:
    """Build a network from exactly these tensors, for inference."""
    logging.disable_progress_bar()
    network = JanusForConditionalGeneration.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
    network.eval().requires_grad_(False).to(device)
    use_fast_memory_format(network.model.vqmodel, device)
    return network


def _load_tokenizer(folder: Path, *, required: bool) -> PreTrainedTokenizerBase | None:
    local = folder.is_dir()
    if local and not any((folder / name).exists() for name in _TOKENIZER_FILES):
        if required:
            raise CheckpointError(f"{folder}: no tokenizer.json")
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises errors of any type on a damaged file
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({first_line(error)})") from None
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder}: the tokenizer ({type(tokenizer).__name__}) is not a Janus one: it is not fast"
        )
    return tokenizer


def _ids_of_config(folder: Path, config: JanusConfig) -> SpecialIds:
    """Frame ids of a checkpoint without tokenizer; begin-of-image is EOS + 1 if generation_config.json has no id."""
    text = config.text_config
    generation = folder / "generation_config.json"
    kwargs = read_json(generation).get("generation_kwargs", {}) if generation.exists() else {}
    boi = kwargs.get("boi_token_id", (text.eos_token_id or 2) + 1)
    return SpecialIds(bos=text.bos_token_id, pad=text.pad_token_id or 0, begin_of_image=boi)
