"""Likelihood of image codes given their prompts: all positions of a picture in one forward pass."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import JanusForConditionalGeneration


def image_logits(network: JanusForConditionalGeneration, ids: Tensor, mask: Tensor, codes: Tensor) -> Tensor:
    """Logits of each code of a picture, given its prompt and the true codes before it (teacher forcing).

    Only image positions go through the head. Gradients flow where the network's parameters require them.

    Args:
        network: transformers' Janus.
        ids: prompts, int64 [B, T], left-padded.
        mask: int64 [B, T], 0 at the padding, else 1.
        codes: int64 [B, tokens].

    Returns:
        float32 [B, tokens, V].
    """
    text = network.model.language_model.embed_tokens(ids)
    image = network.prepare_embeddings_for_image_generation(codes[:, :-1])
    whole_mask = F.pad(mask, (0, image.shape[1]), value=1)
    hidden = network.model.language_model(
        inputs_embeds=torch.cat([text, image], dim=1),
        attention_mask=whole_mask,
        position_ids=(whole_mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=False,
    ).last_hidden_state
    logits: Tensor = network.model.generation_head(hidden[:, ids.shape[1] - 1 :]).float()
    return logits
