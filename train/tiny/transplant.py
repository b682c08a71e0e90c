"""Pictures with a side taken from another picture: codes must tell what is in their own cell."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transplant:
    """Pictures of which one side comes from another picture, and what their latents should be.

    `pixels` is [N, 3, H, W]; `own` [h, w] marks the cells that are each picture's own; `judged`
    [h, w] those that are far enough from the seam to be judged.
    """

    pixels: Tensor
    own: Tensor
    judged: Tensor

    def error(self, latents: Tensor, targets: Tensor) -> Tensor:
        """Squared distance of the mixed pictures' latents from those of the whole ones, [N, h, w, D] each."""
        wanted = torch.where(self.own[..., None], targets, targets.roll(1, 0))
        return (latents - wanted).square().sum(-1)[:, self.judged].mean()


def transplant(pixels: Tensor, cells: int, generator: torch.Generator) -> Transplant:
    """Each picture [N, 3, H, W] with a side taken from the one before it, cut along a line between cells."""
    cut = int(torch.randint(2, cells - 1, (), generator=generator))
    before = torch.arange(cells) < cut
    far = (torch.arange(cells) < cut - 1) | (torch.arange(cells) > cut)
    own, judged = before.expand(cells, cells), far.expand(cells, cells)
    if torch.rand((), generator=generator) < 0.5:
        own, judged = own.T, judged.T
    size = pixels.shape[-1] // cells
    own, judged = own.to(pixels.device), judged.to(pixels.device)
    mask = own.repeat_interleave(size, 0).repeat_interleave(size, 1)
    return Transplant(torch.where(mask, pixels, pixels.roll(1, 0)), own, judged)
