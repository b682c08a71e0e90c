"""Memory that a checkpoint needs, computed before it is loaded, and memory that is free."""

import math
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import JanusConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from model.architecture import parameter_shapes
from model.checkpoints.config import read_config
from model.checkpoints.hub import find_folder
from model.device import choose_dtype
from model.image_tokenizer import planned_table_bytes
from model.prompt import MAX_PROMPT_TOKENS
from model.quantization import Quantization
from model.quantized_matrix import quantized_bytes

_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")  # reclaimable; fields of memory.stat


@dataclass(frozen=True)
class Footprint:
    """Bytes of the weights with their tables, and of keys and values per guided image drawn at once."""

    weights: int
    per_image: int

    def total(self, images: int) -> int:
        """Bytes needed to draw `images` guided images at once."""
        return self.weights + images * self.per_image


def measure(path_or_name: str, *, dtype: str, device: torch.device, revision: str | None = None) -> Footprint:
    """Compute a checkpoint's footprint from its configuration alone; dtype "source" counts as bfloat16.

    Raises:
        CheckpointError: there is no such checkpoint, or its configuration is invalid.
    """
    config = read_config(find_folder(path_or_name, revision)[1])
    return footprint(config, choose_dtype(dtype, device, torch.bfloat16), device)


def footprint(
    config: JanusConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    quantization: Quantization | None = None,
    cache_dtype: torch.dtype | None = None,
) -> Footprint:
    """Compute the footprint of a configuration in a dtype on a device, which need not be there.

    Args:
        config: of the checkpoint.
        dtype: of what is not rounded.
        device: holds the model.
        quantization: of the decoder's matrices, where these are never held as floats, and of its cache.
        cache_dtype: of keys and values if it is another one: bfloat16 beside a CPU's int8 weights.
    """
    size = dtype.itemsize
    numbers = sum(shape.numel() for shape in parameter_shapes(config).values())
    text = config.text_config
    head = text.head_dim or text.hidden_size // text.num_attention_heads
    # tables computed from the weights: code embeddings, rotations of all positions, the image tokenizer's
    tables = config.vq_config.num_embeddings * text.hidden_size * size + 2 * 4 * text.max_position_embeddings * head
    tokens = min(MAX_PROMPT_TOKENS + config.vq_config.num_patches**2, text.max_position_embeddings)
    row = 2 * text.num_hidden_layers * text.num_key_value_heads * head * tokens
    with torch.device("meta"):
        image_tokenizer = JanusVQVAE(config.vq_config)
    tables += planned_table_bytes(image_tokenizer, device, dtype)
    saved = 0
    if quantization is not None:
        matrices = text.num_hidden_layers * _layer_shapes(config) + _head_shapes(config)
        saved = sum(
            outputs * inputs * size - quantized_bytes(outputs, inputs, quantization) for outputs, inputs in matrices
        )
    # 8-bit floats have a scale for each head
    of_row = row + row // head * 4 if quantization == "fp8" else row * (cache_dtype or dtype).itemsize
    return Footprint(numbers * size + tables - saved, 2 * of_row)


def _layer_shapes(config: JanusConfig) -> list[tuple[int, int]]:
    """Outputs and inputs of the matrices of one block, as `model.decoder_weights` fuses them."""
    text = config.text_config
    head = text.head_dim or text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    hidden, inner = text.hidden_size, text.intermediate_size
    return [(queries + 2 * keys, hidden), (hidden, queries), (2 * inner, hidden), (hidden, inner)]


def _head_shapes(config: JanusConfig) -> list[tuple[int, int]]:
    vq = config.vq_config
    return [(vq.projection_dim, config.text_config.hidden_size), (vq.num_embeddings, vq.projection_dim)]


def available_bytes(device: torch.device) -> int:
    """Free bytes on the device (without CUDA: free RAM, or what the cgroup leaves if that is less)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(psutil.virtual_memory().available, cgroup_free_bytes()))


def cgroup_free_bytes(root: Path = Path("/")) -> int | float:
    """Bytes that Linux's control groups (cgroups, versions 1 and 2) leave to this process; infinite without a limit.

    Memory that the kernel can reclaim, such as pages of files, counts as free.

    Args:
        root: folder that holds proc and sys.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    room = math.inf
    for line in lines:
        _, controllers, own = line.split(":", 2)
        prefix = ""
        if controllers == "":
            top, limit, usage = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            limit, usage, prefix = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        group = top / own.lstrip("/")
        # limits of parent groups apply too; in a container the process's own group may be mounted at `top`
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                room = min(room, _group_free_bytes(folder, limit, usage, prefix))
    return room


def _group_free_bytes(group: Path, limit: str, usage: str, prefix: str) -> int | float:
    try:
        most, taken = (group / limit).read_text().strip(), int((group / usage).read_text())
        details = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        freed = sum(int(details.get(prefix + name, 0)) for name in _RECLAIMABLE)
        return math.inf if most == "max" else max(0, int(most) - taken + freed)
    except (OSError, ValueError):  # the group is not visible, or has no limit
        return math.inf
