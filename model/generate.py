"""Reference implementation of guided decoding, written as plainly as possible; faster paths are tested against it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from model.janus import Janus
from model.prompt import unconditional_row
from model.sampling import guide, sample


@torch.no_grad()
def generate(
    janus: Janus,
    prompts: Sequence[str | list[int]],
    *,
    seeds: Sequence[int],
    negative_prompts: Sequence[str | list[int] | None] | None = None,
    guidance_scale: float | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    on_token: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Sample image codes for prompts, all decoded in one batch.

    Args:
        prompts: N texts or lists of token ids with their frame, of any lengths.
        seeds: N, one for each image.
        negative_prompts: N prompts to guide away from; None means the unconditional row.
        guidance_scale: None means the checkpoint's own setting, as for the following three.
        on_token: called after each code with the number of codes sampled so far and the codes [N, tokens].

    Returns:
        int64 [N, tokens] on the model's device.

    Raises:
        PromptError: a prompt is empty or too long.
        ValueError: a setting is out of range, or the lists differ in length.
    """
    params = janus.sampling.override(guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p)
    if not len(prompts) == len(seeds) == len(negative_prompts or prompts):
        raise ValueError(f"{len(prompts)} prompts, but {len(seeds)} seeds or another number of negative prompts")
    rows = [janus.encode(prompt) for prompt in prompts]
    if params.guided:
        negatives = negative_prompts or [None] * len(rows)
        rows += [
            unconditional_row(len(row), janus.ids)
            if negative is None
            else janus.encode(negative, name="negative_prompt")
            for row, negative in zip(list(rows), negatives, strict=True)
        ]
    ids, mask = _left_padded(rows, janus.ids.pad, janus.device)

    network = janus.network.model
    image_count = len(prompts)
    seed = torch.tensor(list(seeds), dtype=torch.int64, device=janus.device)
    codes = torch.zeros(image_count, janus.image_tokens, dtype=torch.int64, device=janus.device)
    cache = DynamicCache(config=network.language_model.config)
    inputs = network.language_model.embed_tokens(ids)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for token in range(janus.image_tokens):
        hidden = network.language_model(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        logits = network.generation_head(hidden).float()
        if params.guided:
            logits = guide(logits[:image_count], logits[image_count:], params.guidance_scale)
        codes[:, token] = sample(logits, params, seeds=seed, positions=torch.full_like(seed, token))
        if on_token is not None:
            on_token(token + 1, codes)
        # one code feeds both rows of its image
        fed = codes[:, token].repeat(len(rows) // image_count)
        inputs = janus.network.prepare_embeddings_for_image_generation(fed)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return codes


def _left_padded(rows: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Left-pad rows of ids into one tensor; returns ids and mask (0 at the padding), each [R, longest]."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask
