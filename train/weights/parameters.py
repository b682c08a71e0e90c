"""The parameters that training changes."""

from torch import nn
from transformers import JanusForConditionalGeneration


def decoder_parameters(network: JanusForConditionalGeneration) -> dict[str, nn.Parameter]:
    """The parameters that draw pictures, by name: all but image tokenizer, understanding tower and text head."""
    frozen = ("model.vqmodel.", "model.vision_model.", "model.aligner.", "lm_head.")
    return {name: p for name, p in network.named_parameters() if not name.startswith(frozen)}


def unfreeze_decoder(network: JanusForConditionalGeneration) -> dict[str, nn.Parameter]:
    """Let gradients flow to `decoder_parameters` only, and return these.

    The embedding of the pad token, which the unconditional row is made of, is among them; transformers' `padding_idx`
    would freeze it.
    """
    network.model.language_model.embed_tokens.padding_idx = None
    network.requires_grad_(False)
    trained = decoder_parameters(network)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return trained
