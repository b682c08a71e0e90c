"""Attention of each image token to the content words of its prompt."""

import re

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb, repeat_kv

from model.prompt import encode_prompt
from train.weights.weights import Weights

# words that say nothing about the picture: articles, prepositions without a place, and the captions' frames
_STOP_WORDS = frozenset(
    "a an the of and or with in at by to as is are it its this that there "  # noqa: SIM905
    "says saying reading picture image photo drawing".split()
)


def content_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[bool]:
    """For each token id of an encoded prompt, whether it belongs to a content word.

    Content words are all but articles, conjunctions and the like, and the frame of the prompt; if there are none, all
    words. Relations such as "left" and "above" are among them.
    """
    row = encode_prompt(tokenizer.backend_tokenizer, prompt)
    text = f": {prompt.strip()}\n\n"
    body = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    words = [found.span() for found in re.finditer(r"\w+", text)]
    content = [(start, end) for start, end in words if text[start:end].lower() not in _STOP_WORDS] or words
    inside = [any(start < stop and end > first for first, stop in content) for start, end in body["offset_mapping"]]
    # the body is found in the row by its ids: what is before it depends on the tokenizer's template
    ids = body["input_ids"]
    before = next(i for i in range(len(row)) if row[i : i + len(ids)] == ids)
    return [False] * before + inside + [False] * (len(row) - before - len(ids))


@torch.no_grad()
def attention_map(weights: Weights, ids: Tensor, mask: Tensor, codes: Tensor, content: Tensor) -> Tensor:
    """Attention to content words from the position that predicts each token, over the middle third of the layers.

    Mean over heads and layers of the attention probabilities, which are computed again from queries and keys.

    Args:
        weights: of the policy.
        ids, mask: prompts, int64 [B, T], left-padded, and 0 at the padding.
        codes: int64 [B, tokens].
        content: bool [B, T].

    Returns:
        float32 [B, tokens].
    """
    layers = weights.network.model.language_model.layers
    third = max(1, len(layers) // 3)
    middle = list(layers)[(len(layers) - third) // 2 :][:third]
    total = torch.zeros(codes.shape, dtype=torch.float32, device=codes.device)

    def add(module: LlamaAttention, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> None:
        hidden = arguments[0] if arguments else keywords["hidden_states"]
        total.add_(_attention_to(module, hidden, keywords["position_embeddings"], mask, content, codes.shape[1]))

    hooks = [layer.self_attn.register_forward_pre_hook(add, with_kwargs=True) for layer in middle]
    try:
        weights.logits(ids, mask, codes)
    finally:
        for hook in hooks:
            hook.remove()
    return total / len(middle)


def _attention_to(
    attention: LlamaAttention, hidden: Tensor, rotation: Tensor, mask: Tensor, content: Tensor, tokens: int
) -> Tensor:
    """Attention probabilities of the last `tokens` positions, summed over content words, mean over heads."""
    batch, length, _ = hidden.shape
    shape = (batch, length, -1, attention.head_dim)
    queries, keys = (project(hidden).view(shape).transpose(1, 2) for project in (attention.q_proj, attention.k_proj))
    queries, keys = apply_rotary_pos_emb(queries, keys, *rotation)
    keys = repeat_kv(keys, attention.num_key_value_groups)
    scores = queries[:, :, -tokens:].float() @ keys.float().mT * attention.scaling
    seen = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()[-tokens:]
    padded = torch.cat([mask.bool(), mask.new_ones(batch, length - mask.shape[1], dtype=torch.bool)], dim=1)
    allowed = seen & padded[:, None, None]
    probabilities = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    to_words: Tensor = (probabilities[..., : mask.shape[1]] * content[:, None, None]).sum(-1)
    return to_words.mean(1)
