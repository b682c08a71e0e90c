"""A tiny random CLIP, in the layout of the hub's repositories."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.utils import logging

SIDE = 32  # pixels of its pictures


def save_tiny_clip(folder: Path) -> None:
    """Write the checkpoint; its tokenizer knows single letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["-"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    network = CLIPModel(
        CLIPConfig(
            text_config={
                **sizes,
                "vocab_size": len(tokens),
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config={**sizes, "image_size": SIDE, "patch_size": 8},
            projection_dim=12,
        )
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)  # so that prompts and pictures differ in direction
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )
