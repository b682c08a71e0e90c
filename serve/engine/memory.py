"""Memory that an engine on a GPU takes beside weights and cache, computed before it is made."""

from dataclasses import dataclass

import torch
from transformers import JanusConfig

from model.image_tokenizer import pictures_at_once
from model.prompt import MAX_PROMPT_TOKENS
from model.quantization import Quantization
from serve.engine.prefixes import AHEAD_TOKENS, PREFILL_TOKENS, UNCONDITIONAL_BYTES

# What CUDA and its libraries load, their workspaces, and captured graphs: a guess, which nothing computes
_LIBRARIES = 2**30


@dataclass(frozen=True)
class WorkingMemory:
    """Most bytes that an engine takes, by what they are for.

    prefixes: of unconditional rows, which are kept, of prompts that were read ahead, and of those that go into the cache
        while the next are read.
    prompts: while 1024 tokens are read, rounded matrices widened one by one.
    pictures: while the pixels of some pictures are computed; these may be decoded while prompts are read.
    spare: the cache's row that captured steps write to when their batch is not full.
    libraries: an allowance for what CUDA's libraries take.
    """

    prefixes: int
    prompts: int
    pictures: int
    spare: int
    libraries: int = _LIBRARIES

    @property
    def total(self) -> int:
        return self.prefixes + self.prompts + self.pictures + self.spare + self.libraries


def working_memory(
    config: JanusConfig, dtype: torch.dtype, device: torch.device, *, quantization: Quantization | None = None
) -> WorkingMemory:
    """Compute what an engine takes on a CUDA device, which need not be there, with matrices of `quantization`."""
    text, vq, size = config.text_config, config.vq_config, dtype.itemsize
    heads, kv_heads, hidden = text.num_attention_heads, text.num_key_value_heads, text.hidden_size
    head = text.head_dim or hidden // heads
    token = 2 * text.num_hidden_layers * kv_heads * head * size  # keys and values
    lengths = sum(range(2, MAX_PROMPT_TOKENS + 1))  # of unconditional rows: one prefix for each length of a prompt
    ahead = max(AHEAD_TOKENS, 2 * MAX_PROMPT_TOKENS)  # one job's, or several
    # a layer's queries, keys and values before and after rotation, what is attended to, and the residual stream
    layer = ((2 * heads + 3 * kv_heads) * head + 2 * hidden) * size
    image_size = vq.num_patches * 2 ** (len(vq.channel_multiplier) - 1)
    # a block's largest matrix, as floats: before and after scaling
    widened = 2 * 2 * text.intermediate_size * hidden * size if quantization else 0
    # four tensors of the last level: a residual block's input, and the input, its copy with the channels last, and the output
    # of its convolution; normalisation computes with the channels first
    pixel = 4 * vq.base_channels * vq.channel_multiplier[0] * size
    row = token * min(MAX_PROMPT_TOKENS + vq.num_patches**2, text.max_position_embeddings)
    return WorkingMemory(
        prefixes=min(UNCONDITIONAL_BYTES, lengths * token) + (ahead + PREFILL_TOKENS) * token,
        prompts=PREFILL_TOKENS * (token + layer)
        + max(PREFILL_TOKENS * token, widened),  # a copy for each prompt is made last
        pictures=pictures_at_once(image_size, device) * image_size**2 * pixel,
        spare=row,
    )
