"""Codebook on the unit sphere that follows running means of latents."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SphericalCodebook(nn.Module):
    """Codes [V, D] on the unit sphere, each following the running mean of the latents assigned to it."""

    def __init__(self, size: int, width: int, *, decay: float, restart_below: float, separation: float) -> None:
        super().__init__()
        self.decay = decay
        self.restart_below = restart_below
        self.separation = separation  # squared distance
        self.codes: Tensor
        self.usage: Tensor
        self.sums: Tensor
        self.register_buffer("codes", F.normalize(torch.randn(size, width), dim=-1))
        self.register_buffer("usage", torch.ones(size))
        self.register_buffer("sums", self.codes.clone())

    @torch.no_grad()
    def initialise(self, latents: Tensor, generator: torch.Generator, rounds: int = 12) -> None:
        """Initialise by spherical k-means over unit latents [N, D]."""
        size = len(self.codes)
        centres = latents[torch.randperm(len(latents), generator=generator)[:size]]
        for _ in range(rounds):
            nearest = nearest_codes(latents, centres)
            sums = torch.zeros_like(centres).index_add_(0, nearest, latents)
            empty = torch.bincount(nearest, minlength=size) == 0
            fresh = latents[torch.randint(len(latents), (size,), generator=generator)]
            centres = F.normalize(torch.where(empty[:, None], fresh, sums), dim=-1)
        self.usage.fill_(1.0)
        self.sums.copy_(centres)
        self.codes.copy_(centres)

    @torch.no_grad()
    def update(self, latents: Tensor, chosen: Tensor) -> None:
        """Move each code towards the latents [N, D] that chose it (indices [N])."""
        self.usage.mul_(self.decay).add_(torch.bincount(chosen, minlength=len(self.codes)), alpha=1 - self.decay)
        assigned = torch.zeros_like(self.sums).index_add_(0, chosen, latents)
        self.sums.mul_(self.decay).add_(assigned, alpha=1 - self.decay)
        # the sum of an unused code fades towards zero; a tiny eps keeps its direction
        self.codes.copy_(F.normalize(self.sums, dim=-1, eps=1e-30))

    @torch.no_grad()
    def restart(self, latents: Tensor) -> int:
        """Move codes that are unused, or repeat a busier one, to the latents [N, D] farthest from any code.

        Without restarts, half of all codes become shades of an empty sky, which fills most cells: they
        carry no content, and the decoder must still learn them (docs/tiny.md).

        Returns:
            Number of codes moved, at most N / 4.
        """
        likeness = self.codes @ self.codes.T
        place = torch.arange(len(self.codes), device=self.codes.device)
        busier = (self.usage[None] > self.usage[:, None]) | (
            (self.usage[None] == self.usage[:, None]) & (place[None] < place[:, None])
        )
        repeated = ((likeness > 1 - self.separation / 2) & busier).any(1)
        idle = (repeated | (self.usage < self.restart_below)).nonzero().flatten()[: len(latents) // 4]
        worst = (latents @ self.codes.T).amax(-1).argsort()[: len(idle)]
        self.sums[idle] = latents[worst]
        self.usage[idle] = 1.0
        self.codes[idle] = latents[worst]
        return len(idle)

    @torch.no_grad()
    def select_from(self, scaffold: "SphericalCodebook") -> None:
        """Copy the busiest codes of a larger codebook that lie apart, busiest first.

        Codes are taken in order of use, skipping any that is too near to one already taken. The minimum
        squared distance is the largest that leaves enough codes, found by bisection.
        """
        order = scaffold.usage.argsort(descending=True, stable=True)
        likeness = scaffold.codes[order] @ scaffold.codes[order].T
        near, far = 0.0, 4.0
        taken = order[: len(self.codes)]
        while far - near > 1e-4:
            middle = (near + far) / 2
            apart = _select_separated(likeness, 1 - middle / 2)
            if len(apart) >= len(self.codes):
                near, taken = middle, order[apart[: len(self.codes)]]
            else:
                far = middle
        self.codes.copy_(scaffold.codes[taken])
        self.usage.copy_(scaffold.usage[taken])
        self.sums.copy_(scaffold.sums[taken])


def _select_separated(likeness: Tensor, limit: float) -> Tensor:
    """Indices of rows taken first to last, skipping any whose likeness to one already taken exceeds `limit`."""
    likeness = likeness.cpu()
    free = torch.ones(len(likeness), dtype=torch.bool)
    taken = []
    for row in range(len(likeness)):
        if free[row]:
            taken.append(row)
            free &= likeness[row] <= limit
    return torch.tensor(taken)


def nearest_codes(latents: Tensor, codes: Tensor) -> Tensor:
    """Indices [...] of the codes [V, D] nearest to unit latents [..., D]."""
    return (latents @ codes.T).argmax(-1)
