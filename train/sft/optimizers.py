"""Optimizers of supervised fine-tuning."""

from collections.abc import Mapping

import torch
from torch import nn

from train.muon import Muon
from train.sft.recipe import SFTRecipe


def make_optimizers(
    trained: Mapping[str, nn.Parameter], recipe: SFTRecipe
) -> list[tuple[torch.optim.Optimizer, float]]:
    """AdamW, and Muon for the matrices of the decoder's blocks if the recipe has a rate for them; with peak rates.

    Embeddings, norms and biases are not decayed.
    """
    matrices = recipe.matrix_learning_rate > 0
    blocks = {name: p for name, p in trained.items() if matrices and p.ndim == 2 and ".layers." in name}
    others = {name: p for name, p in trained.items() if name not in blocks}
    plain = [p for name, p in others.items() if p.ndim == 1 or "embed" in name]
    decayed = [p for name, p in others.items() if p.ndim > 1 and "embed" not in name]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    adamw = torch.optim.AdamW(groups, betas=recipe.betas, eps=recipe.epsilon, fused=True)
    muon = [(Muon(blocks.values(), weight_decay=recipe.weight_decay), recipe.matrix_learning_rate)] if blocks else []
    return [*muon, (adamw, recipe.learning_rate)]
