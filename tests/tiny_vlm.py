"""A tiny random InternVL in the layout of the hub's InternVL3-…-hf repositories."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

_NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_NAMED.values()]
_TEXTS = [
    "yes Yes YES no No NO",
    "yes",
    "Yes",
    "YES",
    "no",
    "No",
    "NO",
    "user\n",
    "assistant\n",
    "Does this image match",
]
_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{% if part.type == 'image' %}<IMG_CONTEXT>
{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TILE = 28  # pixels; a tile is one token


def save_tiny_vlm(folder: Path, texts: list[str] = _TEXTS) -> None:
    """Write the checkpoint; `texts` are what the tokenizer's merges are learnt from."""
    tokenizer = _tokenizer(texts)
    torch.manual_seed(0)
    network = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config={
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "image_size": [TILE, TILE],
                "patch_size": [14, 14],
            },
            text_config={
                "model_type": "qwen2",
                "vocab_size": len(tokenizer),
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "intermediate_size": 64,
                "max_position_embeddings": 4096,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=1,
        )
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)  # so that scores differ from 0.5, and among pictures and questions
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}, crop_to_patches=True).save_pretrained(folder)
    (folder / "processor_config.json").write_text(
        json.dumps({"image_seq_length": 1, "processor_class": "InternVLProcessor"})
    )
    (folder / "chat_template.jinja").write_text(_TEMPLATE)


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in _SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=_NAMED
    )
