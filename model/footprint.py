"""How much memory a checkpoint takes, found out before it is loaded."""

from dataclasses import dataclass

import psutil
import torch

from model.checkpoint import choose_dtype, find_folder, parameter_shapes, read_config
from model.prompt import MAX_PROMPT_TOKENS


@dataclass(frozen=True)
class Footprint:
    """Bytes of the weights, and of keys and values for each guided image that is drawn at once."""

    weights: int
    per_image: int

    def total(self, images: int) -> int:
        """Bytes with room for so many images."""
        return self.weights + images * self.per_image


def measure(path_or_name: str, *, dtype: str, device: torch.device, revision: str | None = None) -> Footprint:
    """What a checkpoint will take, from its configuration alone.

    Raises:
        CheckpointError: there is no such checkpoint, or its configuration does not fit.
    """
    config = read_config(find_folder(path_or_name, revision)[1])
    size = choose_dtype(dtype, device, torch.bfloat16).itemsize
    numbers = sum(shape.numel() for shape in parameter_shapes(config).values())
    text = config.text_config
    head = text.head_dim or text.hidden_size // text.num_attention_heads
    tokens = min(MAX_PROMPT_TOKENS + config.vq_config.num_patches**2, text.max_position_embeddings)
    row = 2 * text.num_hidden_layers * text.num_key_value_heads * head * tokens
    return Footprint(numbers * size, 2 * row * size)


def available_bytes(device: torch.device) -> int:
    """Memory of a device that nobody has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
