"""A model with the parts of a small one, but another geometry of its language model."""

import copy
from dataclasses import replace

import torch
from transformers import JanusForConditionalGeneration

from model.janus import Janus

LONG = 1041  # inputs: two whole chunks of `model/cpu/rounded_rows.h`, and a remainder that is no multiple of a tile's
WIDE = 144  # numbers of a head: whole vectors that are averaged together on every processor, and a remainder


def with_geometry(small: Janus, **text: int) -> Janus:
    """The model with other settings of its language model, and random weights of a size that makes logits differ."""
    config = copy.deepcopy(small.network.config)
    for name, value in text.items():
        assert hasattr(config.text_config, name)
        setattr(config.text_config, name, value)
    torch.manual_seed(0)
    janus = replace(small, network=JanusForConditionalGeneration(config).eval())
    with torch.no_grad():
        for part in (janus.network.model.language_model, janus.network.model.generation_head):
            for parameter in part.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
    return janus
