"""Pictures with one side from another picture, to train codes that depend on their own cell alone."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transplant:
    """Mixed pictures, each with one side from another picture.

    `pixels` is [N, 3, H, W]; `kept` [h, w] marks the cells that are each picture's own; `scored` [h, w]
    marks the cells far enough from the seam to count in the error.
    """

    pixels: Tensor
    kept: Tensor
    scored: Tensor

    def error(self, latents: Tensor, targets: Tensor) -> Tensor:
        """Mean squared distance of the mixed pictures' latents from those of the whole ones, [N, h, w, D] each."""
        wanted = torch.where(self.kept[..., None], targets, targets.roll(1, 0))
        return (latents - wanted).square().sum(-1)[:, self.scored].mean()


def transplant(pixels: Tensor, cells: int, generator: torch.Generator) -> Transplant:
    """Replace one side of each picture [N, 3, H, W] with that of the picture before it, cut between two cells.

    `cells` is the number of cells along a side of a picture.
    """
    cut = int(torch.randint(2, cells - 1, (), generator=generator))
    before = torch.arange(cells) < cut
    far = (torch.arange(cells) < cut - 1) | (torch.arange(cells) > cut)
    kept, scored = before.expand(cells, cells), far.expand(cells, cells)
    if torch.rand((), generator=generator) < 0.5:
        kept, scored = kept.T, scored.T
    size = pixels.shape[-1] // cells
    kept, scored = kept.to(pixels.device), scored.to(pixels.device)
    mask = kept.repeat_interleave(size, 0).repeat_interleave(size, 1)
    return Transplant(torch.where(mask, pixels, pixels.roll(1, 0)), kept, scored)
