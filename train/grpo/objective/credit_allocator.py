"""Credit weights of a micro-batch by the recipe's method."""

from zlib import crc32

import torch
from torch import Tensor

from model.janus import Janus
from train.grpo.objective.attention_map import attention_map, content_tokens
from train.grpo.objective.credit import credit_weights, guidance_map, pair_map, shuffle_tokens
from train.grpo.objective.micro_batches import MicroBatch
from train.grpo.objective.policy import PromptTable, Scores
from train.grpo.recipe import CreditRecipe
from train.weights.weights import Weights


class CreditAllocator:
    """Weights of a micro-batch's tokens; their mean over each image is 1.

    Args:
        janus: encodes prompts.
        weights: compute the maps that need a forward pass of their own.
        recipe: the method.
    """

    def __init__(self, janus: Janus, weights: Weights, recipe: CreditRecipe) -> None:
        self._janus, self._weights, self._recipe = janus, weights, recipe

    @torch.no_grad()
    def __call__(self, batch: MicroBatch, scores: Scores) -> Tensor:
        """Weights float32 [B, tokens]; `scores` are the micro-batch's."""
        weights = credit_weights(self._map(batch, scores))
        if self._recipe.shuffled:
            # the seed is the image itself, so that the order does not depend on the micro-batch
            weights = shuffle_tokens(weights, [crc32(codes.cpu().numpy().tobytes()) for codes in batch.codes])
        return weights

    def _map(self, batch: MicroBatch, scores: Scores) -> Tensor:
        codes = batch.codes
        if self._recipe.method == "uniform":
            return torch.ones_like(scores.logprobs)
        if self._recipe.method == "guidance":
            return guidance_map(scores.conditional, scores.unconditional, codes)
        prompts = batch.prompts
        if self._recipe.method == "pair":
            others = PromptTable.of([self._janus.encode(text) for text in batch.others], self._janus.ids, codes.device)
            logits = self._weights.logits(others.ids, others.mask, codes, others.conditional)
            return pair_map(scores.conditional, logits, codes)
        assert self._janus.tokenizer is not None
        ids, mask = prompts.ids[prompts.conditional], prompts.mask[prompts.conditional]
        content = torch.zeros_like(mask, dtype=torch.bool)
        for row, text in enumerate(batch.texts):
            own = content_tokens(self._janus.tokenizer, text)
            content[row, -len(own) :] = torch.tensor(own)
        return attention_map(self._weights, ids, mask, codes, content)
