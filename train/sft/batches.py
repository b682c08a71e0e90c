"""Batches of prompts and codes."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from model.janus import Janus
from model.prompt import unconditional_row
from train.data.order import shuffled
from train.ranks import ALONE, Ranks
from train.sft.recipe import SFTRecipe
from train.sft.rows import Rows


@dataclass(frozen=True)
class Batch:
    """Left-padded prompts and their mask [B, T], image codes [B, tokens], and which rows are unconditional [B]."""

    ids: Tensor
    mask: Tensor
    codes: Tensor
    unconditional: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def split(self, size: int) -> list["Batch"]:
        """Batches of at most `size` rows; 0 leaves it whole."""
        parts = [getattr(self, field.name).split(size or len(self.codes)) for field in fields(self)]
        return [Batch(*part) for part in zip(*parts, strict=True)]


class Batches:
    """Training batches by step number, which alone decides their rows, wordings and padding.

    A batch mixes prompts of all lengths. Sorting them by length would need less padding, but would also
    sort them by category, which costs more in steps than it saves in time (docs/tiny.md).

    Args:
        rows: prompts and codes.
        janus: encodes prompts.
        recipe: size of a batch, and the share of dropped prompts.
        ranks: each process gets its share of every batch.
    """

    def __init__(self, rows: Rows, janus: Janus, recipe: SFTRecipe, ranks: Ranks = ALONE) -> None:
        self._rows, self._janus, self._recipe, self._ranks = rows, janus, recipe, ranks

    def __getitem__(self, step: int) -> Batch:
        size = self._recipe.batch_size
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + step)
        dropped = torch.rand(size, generator=generator) < self._recipe.drop_prompt
        own, rows, indices = self._ranks.own(range(size)), [], []
        for place in own:
            position = step * size + place
            epoch, index = position // len(self._rows), shuffled(position, len(self._rows))
            row = self._janus.encode(self._rows.prompt(index, epoch))
            rows.append(unconditional_row(len(row), self._janus.ids) if dropped[place] else row)
            indices.append(index)
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._janus.ids.pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = 1
        return Batch(ids, mask, torch.stack([self._rows.codes(index) for index in indices]), dropped[list(own)])
