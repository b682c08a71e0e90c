"""Batches of captions and codes."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.prompt import encode_prompt, special_ids, unconditional_row
from train.data.order import shuffled
from train.data.scenes import SceneSource
from train.sft.recipe import SFTRecipe


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts and their mask [B, T], image codes [B, tokens], and which rows are unconditional [B]."""

    ids: Tensor
    mask: Tensor
    codes: Tensor
    unconditional: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


class Batches:
    """Training batches by step number, which alone decides their rows, wordings and padding.

    A batch mixes prompts of all lengths. Sorting them by length would need less padding, but would also
    sort them by category, which costs more in steps than it saves in time (docs/tiny.md).
    """

    def __init__(
        self,
        source: SceneSource,
        codes: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        recipe: SFTRecipe,
        *,
        seed: int,
    ) -> None:
        self._source = source
        self._codes = codes
        self._tokenizer = tokenizer
        self._ids = special_ids(tokenizer)
        self._recipe = recipe
        self._seed = seed

    def __getitem__(self, step: int) -> Batch:
        size = self._recipe.batch_size
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        dropped = torch.rand(size, generator=generator) < self._recipe.drop_prompt
        rows, indices = [], []
        for place in range(size):
            position = step * size + place
            epoch, index = position // len(self._codes), shuffled(position, len(self._codes))
            row = encode_prompt(self._tokenizer, self._source.caption(index, epoch))
            rows.append(unconditional_row(len(row), self._ids) if dropped[place] else row)
            indices.append(index)
        longest = max(map(len, rows))
        ids = torch.full((size, longest), self._ids.pad)
        mask = torch.zeros(size, longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = 1
        return Batch(ids, mask, self._codes[indices].long(), dropped)
