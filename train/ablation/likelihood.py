"""Likelihood of fresh pictures, and how far a policy went from its start."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.params import SamplingParams
from pairs.caption import parse
from pairs.paircomp import Case
from pairs.render import render
from train.data.codes import encode
from train.grpo.objective.loss import codebook_kl
from train.grpo.objective.policy import PromptTable, Scores, score
from train.weights.image_logits import ImageLogits

_AT_ONCE = 16  # pictures


@torch.no_grad()
def surprise(janus: Janus, cases: Sequence[Case]) -> tuple[float, float]:
    """Mean negative log-likelihood of a rendered picture of each prompt, in nats per code.

    Returns:
        Given the prompt, and given the unconditional row.
    """
    image_tokenizer = ImageTokenizer(janus)
    prompts = [prompt for case in cases for prompt in case.prompts]
    pictures = [
        Image.fromarray(render(parse(prompt).scene, 1_000_000 + number, janus.image_size))
        for number, prompt in enumerate(prompts)
    ]
    codes = torch.stack([encode(picture, image_tokenizer) for picture in pictures])
    sums, params = np.zeros(2), SamplingParams(2.0, 1.0, 0, 1.0)  # guided, so that both rows are computed
    for rows in _batches(len(prompts)):
        found = _score(janus, [prompts[row] for row in rows], codes[rows], params)
        for which, logits in enumerate((found.conditional, found.unconditional)):
            own = logits.log_softmax(-1).gather(-1, codes[rows].to(logits.device)[..., None])
            sums[which] -= float(own.cpu().double().sum())
    given_prompt, unconditional = (sums / codes.numel()).tolist()
    return given_prompt, unconditional


@torch.no_grad()
def drift(janus: Janus, start: Janus, cases: Sequence[Case], codes: Tensor, params: SamplingParams) -> float:
    """KL(policy ‖ start) in nats per code, on pictures that the policy drew.

    Args:
        janus: the policy.
        start: an earlier one.
        cases: C of them.
        codes: int64 [C, 2, tokens], a picture of each prompt.
        params: settings it was drawn with, which both policies get.
    """
    prompts = [prompt for case in cases for prompt in case.prompts]
    flat, total = codes.flatten(0, 1), 0.0
    for rows in _batches(len(prompts)):
        own = [prompts[row] for row in rows]
        policies = [_score(one, own, flat[rows], params).distribution for one in (janus, start)]
        total += float(codebook_kl(*policies).cpu().double().sum())
    return total / flat.numel()


def _score(janus: Janus, prompts: Sequence[str], codes: Tensor, params: SamplingParams) -> Scores:
    table = PromptTable.of([janus.encode(prompt) for prompt in prompts], janus.ids, janus.device)
    return score(ImageLogits(janus.network), table, codes.to(janus.device), params)


def _batches(count: int) -> Iterator[range]:
    return (range(first, min(first + _AT_ONCE, count)) for first in range(0, count, _AT_ONCE))
