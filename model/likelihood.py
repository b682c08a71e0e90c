"""Likelihood of image codes given their prompts: all positions of a picture in one forward pass."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, JanusForConditionalGeneration


def image_logits(
    network: JanusForConditionalGeneration, ids: Tensor, mask: Tensor, codes: Tensor, *, prompts: Tensor | None = None
) -> Tensor:
    """Logits of each code of a picture, given its prompt and the true codes before it (teacher forcing).

    Only image positions go through the head. Gradients flow where the network's parameters require them.

    Args:
        network: transformers' Janus.
        ids: prompts, int64 [P, T], left-padded.
        mask: int64 [P, T], 0 at the padding, else 1.
        codes: int64 [B, tokens].
        prompts: int64 [B], the row of `ids` that is each picture's prompt. Prompts are then read once, however many
            pictures share them; only with gradient checkpointing, once for each. None means that picture i has
            prompt i.

    Returns:
        float32 [B, tokens, V].
    """
    if prompts is not None and network.training and network.is_activation_checkpointing:
        ids, mask, prompts = ids[prompts], mask[prompts], None  # transformers would not keep what pictures share
    language_model = network.model.language_model
    text = language_model.embed_tokens(ids)
    image = network.prepare_embeddings_for_image_generation(codes[:, :-1])
    if prompts is None:
        hidden = _hidden(language_model, torch.cat([text, image], dim=1), F.pad(mask, (0, image.shape[1]), value=1))
    else:
        hidden = _after_shared_prompts(language_model, text, mask, image, prompts)
    return _image_head(network.model.generation_head, hidden[:, -codes.shape[1] :])


def _image_head(head: torch.nn.Module, hidden: Tensor) -> Tensor:
    """Logits in float32, computed in the dtype of the head's own weights, also under autocast."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits: Tensor = head(hidden.to(next(head.parameters()).dtype)).float()
    return logits


def _after_shared_prompts(
    language_model: torch.nn.Module, text: Tensor, mask: Tensor, image: Tensor, prompts: Tensor
) -> Tensor:
    """Hidden states [B, tokens, hidden] from each prompt's last token on; each prompt is read once."""
    prefix = DynamicCache(config=language_model.config)
    last = _hidden(language_model, text, mask, prefix)[prompts, -1:]
    prefix.batch_select_indices(prompts)
    hidden = _hidden(language_model, image, F.pad(mask[prompts], (0, image.shape[1]), value=1), prefix)
    return torch.cat([last, hidden], dim=1)


def _hidden(language_model: torch.nn.Module, inputs: Tensor, mask: Tensor, cache: DynamicCache | None = None) -> Tensor:
    """Last hidden states [B, T, hidden] of inputs that follow what `cache` holds; `mask` covers both."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
    hidden: Tensor = language_model(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    return hidden
