"""Baseline loops, timed against the engine on the same weights and prompt."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from model.janus import Janus
from model.params import SamplingParams
from model.prompt import unconditional_row


@torch.no_grad()
def with_transformers(janus: Janus, prompt: list[int], seeds: Sequence[int], params: SamplingParams) -> Tensor:
    """Draw codes [N, tokens] of one prompt with transformers' `generate(generation_mode="image")`."""
    torch.manual_seed(seeds[0])
    ids = torch.tensor([prompt] * len(seeds), device=janus.device)
    codes = janus.network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_mode="image",
        do_sample=True,
        guidance_scale=params.guidance_scale,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
    )
    return cast(Tensor, codes)


@torch.inference_mode()
def with_a_growing_cache(janus: Janus, prompt: list[int], seeds: Sequence[int], params: SamplingParams) -> Tensor:
    """Draw codes [N, tokens] of one prompt with the loop of Janus's published inference script.

    Conditional and unconditional rows alternate, one global seed feeds `torch.multinomial`, and the
    KV cache grows by one token per step. Like the script it has neither top-k nor top-p.
    """
    torch.manual_seed(seeds[0])
    model = janus.network.model
    ids = torch.tensor([prompt, unconditional_row(len(prompt), janus.ids)] * len(seeds), device=janus.device)
    inputs = model.language_model.embed_tokens(ids)
    codes = torch.zeros(len(seeds), janus.image_tokens, dtype=torch.int64, device=janus.device)
    past = None
    for token in range(janus.image_tokens):
        output = model.language_model(inputs_embeds=inputs, use_cache=True, past_key_values=past)
        past = output.past_key_values
        logits = model.generation_head(output.last_hidden_state[:, -1])
        conditional, unconditional = logits[0::2], logits[1::2]
        guided = unconditional + params.guidance_scale * (conditional - unconditional)
        codes[:, token] = torch.multinomial((guided / params.temperature).softmax(-1), num_samples=1)[:, 0]
        inputs = janus.network.prepare_embeddings_for_image_generation(codes[:, token].repeat_interleave(2))[:, None]
    return codes
