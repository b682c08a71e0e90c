"""Likelihood of pictures of test scenes, which training never saw."""

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from bench.world.pairshapes import UnseenPrompt
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.likelihood import image_logits
from model.prompt import unconditional_row
from pairs.render import render


@torch.no_grad()
def surprise(janus: Janus, prompts: Sequence[UnseenPrompt]) -> tuple[float, float]:
    """Mean negative log-likelihood of one rendered picture per prompt, in nats per code.

    Returns:
        Given its prompt, and given the unconditional row.
    """
    image_tokenizer = ImageTokenizer(janus)
    sums = np.zeros(2)
    for prompt in tqdm(prompts, desc="likelihood", disable=None):
        pixels = torch.from_numpy(render(prompt.scene, 1_000_000 + prompt.index, janus.image_size))
        codes = image_tokenizer.encode(pixels.permute(2, 0, 1)[None].float() / 127.5 - 1)
        row = janus.encode(prompt.caption)
        ids = torch.tensor([row, unconditional_row(len(row), janus.ids)], device=janus.device)
        logits = image_logits(janus.network, ids, torch.ones_like(ids), codes.repeat(2, 1))
        own = logits.log_softmax(-1).gather(-1, codes.repeat(2, 1)[..., None])
        sums -= own.mean((1, 2)).double().cpu().numpy()
    given_prompt, unconditional = (sums / len(prompts)).tolist()
    return given_prompt, unconditional
