"""Training of the image tokenizer (VQ autoencoder) on transformers' own modules.

The straight-through estimator, the codebook and the loss are here, because transformers' forward
decodes from indices and so gives the encoder no gradient from the picture. There is no adversary,
since the pictures of the procedural world are sharp under plain reconstruction. What a decoder has
to learn is what the codes say, so they are made to say little that is not content:

- each is taught to tell what is in its own cell, whatever else the picture holds (`transplant`);
- a large codebook, the scaffold, first finds what there is to say: it starts from spherical k-means
  over the latents of an autoencoder that was trained without quantisation, and follows the means of
  what chose its codes (van den Oord et al. 2017, appendix A.1) on the unit sphere;
- once all has settled, only its busiest codes that lie apart go on (`SphericalCodebook.take_busiest`),
  for which of two near ones is chosen is an accident. docs/tiny.md has the numbers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from train.run import Run
from train.schedule import warmup_cosine


@dataclass(frozen=True)
class VQSettings:
    """How the tokenizer is trained.

    `continuous_steps` run before there are codes; then a scaffold of `scaffold_embeddings` codes
    learns until `thin_at_step`, when the network takes its own from it and goes on with those. Each
    part, before and after, has its learning rate, which falls to nothing. `edge_weight`, `commitment`
    and `locality` weigh the loss's parts. Codes keep `codebook_decay` of their running mean each
    step; one of the scaffold that is used less than `restart_below` times a batch, or lies within
    the squared distance `separation` of a busier one, moves.
    """

    steps: int
    batch_size: int
    learning_rate: float
    own_learning_rate: float
    continuous_steps: int
    thin_at_step: int
    edge_weight: float
    commitment: float
    locality: float
    scaffold_embeddings: int
    codebook_decay: float
    restart_below: float
    separation: float
    seed: int = 0


class SphericalCodebook(nn.Module):
    """Codes [V, D] on the unit sphere that follow the mean of the latents assigned to them."""

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
    def start(self, latents: Tensor, generator: torch.Generator, rounds: int = 12) -> None:
        """Spherical k-means over unit latents [N, D]."""
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
    def follow(self, latents: Tensor, chosen: Tensor) -> None:
        """Move each code towards the latents [N, D] that chose it (indices [N])."""
        self.usage.mul_(self.decay).add_(torch.bincount(chosen, minlength=len(self.codes)), alpha=1 - self.decay)
        assigned = torch.zeros_like(self.sums).index_add_(0, chosen, latents)
        self.sums.mul_(self.decay).add_(assigned, alpha=1 - self.decay)
        # sums of codes that nothing chooses any more fade: their direction must outlive that
        self.codes.copy_(F.normalize(self.sums, dim=-1, eps=1e-30))

    @torch.no_grad()
    def restart(self, latents: Tensor) -> int:
        """Move codes that nothing chooses, or that repeat a busier one, to the latents [N, D] served worst.

        Means follow the crowd: left alone, half of all codes become shades of an empty sky, which
        says nothing and costs the decoder dearly (docs/tiny.md).

        Returns:
            How many were moved; at most a quarter of N.
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
    def take_busiest(self, scaffold: "SphericalCodebook") -> None:
        """Become the busiest codes of a larger codebook that lie as far apart as so many can, busiest first.

        Codes are taken in order of use, each unless it is too near to one taken before; how near is
        too near is the largest squared distance that leaves enough of them.
        """
        order = scaffold.usage.argsort(descending=True, stable=True)
        likeness = scaffold.codes[order] @ scaffold.codes[order].T
        near, far = 0.0, 4.0
        taken = order[: len(self.codes)]
        while far - near > 1e-4:
            middle = (near + far) / 2
            apart = _apart(likeness, 1 - middle / 2)
            if len(apart) >= len(self.codes):
                near, taken = middle, order[apart[: len(self.codes)]]
            else:
                far = middle
        self.codes.copy_(scaffold.codes[taken])
        self.usage.copy_(scaffold.usage[taken])
        self.sums.copy_(scaffold.sums[taken])


def _apart(likeness: Tensor, limit: float) -> Tensor:
    """Indices of rows taken first to last, without those more alike than `limit` to one taken before."""
    likeness = likeness.cpu()
    free = torch.ones(len(likeness), dtype=torch.bool)
    taken = []
    for row in range(len(likeness)):
        if free[row]:
            taken.append(row)
            free &= likeness[row] <= limit
    return torch.tensor(taken)


def nearest_codes(latents: Tensor, codes: Tensor) -> Tensor:
    """Indices [...] of the codes [V, D] that unit latents [..., D] are nearest to."""
    return (latents @ codes.T).argmax(-1)


def encode_latents(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Unit latents of pictures: [N, 3, H, W] in [−1, 1] → [N, h, w, D]."""
    return F.normalize(vq.quant_conv(vq.encoder(pixels)).permute(0, 2, 3, 1), dim=-1)


def decode_latents(vq: JanusVQVAE, latents: Tensor) -> Tensor:
    """Pictures of latents: [N, h, w, D] → [N, 3, H, W]."""
    pictures: Tensor = vq.decoder(vq.post_quant_conv(latents.permute(0, 3, 1, 2).contiguous()))
    return pictures


def reconstruction_loss(output: Tensor, target: Tensor, *, edge_weight: float) -> Tensor:
    """Error of the pixels and, weighted, of their differences to the next pixel.

    The edge term keeps outlines and letters sharp without an adversary.
    """
    error = output - target
    edges = _robust(error.diff(dim=-1)) + _robust(error.diff(dim=-2))
    return _robust(error) + edge_weight * edges


def _robust(error: Tensor) -> Tensor:
    """Squares, which find the colours first, and a little absolute error, which rules once they are small."""
    return error.square().mean() + 0.1 * error.abs().mean()


def default_convolution_start(vq: JanusVQVAE) -> None:
    """PyTorch's own start for every convolution: transformers' N(0, .02) learns several times slower."""
    for module in vq.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()


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


def to_pixels(images: NDArray[np.uint8], indices: Tensor, device: torch.device) -> Tensor:
    """Rows of a uint8 array [N, H, W, 3] as float pixels [n, 3, H, W] in [−1, 1]."""
    batch = torch.from_numpy(images[indices.numpy()]).to(device)
    return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def train_tokenizer(vq: JanusVQVAE, images: NDArray[np.uint8], folder: Path, settings: VQSettings) -> None:
    """Train a VQ autoencoder in place, resuming from `folder` where it holds an earlier part.

    Args:
        vq: starts from `default_convolution_start`; its codebook ends on the unit sphere.
        images: uint8 [N, H, W, 3].
        folder: of the run's state and curves.
    """
    torch.manual_seed(settings.seed)
    device = _device(vq)
    default_convolution_start(vq)
    vq.train().requires_grad_(True)
    vq.quantize.requires_grad_(False)
    scaffold, own = (
        SphericalCodebook(
            size,
            vq.config.embed_dim,
            decay=settings.codebook_decay,
            restart_below=settings.restart_below,
            separation=settings.separation,
        ).to(device)
        for size in (settings.scaffold_embeddings, vq.config.num_embeddings)
    )
    optimizer = torch.optim.AdamW(
        [p for p in vq.parameters() if p.requires_grad], betas=(0.9, 0.98), weight_decay=1e-4, fused=True
    )
    run = Run(folder, settings.steps)
    cells = images.shape[1] // 2 ** (len(vq.config.channel_multiplier) - 1)
    for step in run.steps({"vq": vq, "scaffold": scaffold, "own": own, "optimizer": optimizer}):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, settings)
        if step == settings.continuous_steps:
            _start_codebook(vq, scaffold, images, generator)
        if step == settings.thin_at_step:
            own.take_busiest(scaffold)
        book = None
        if step >= settings.continuous_steps:
            book = scaffold if step < settings.thin_at_step else own
        pixels = to_pixels(images, torch.randint(len(images), (settings.batch_size,), generator=generator), device)
        mixed = transplant(pixels, cells, generator)
        latents, mixed_latents = encode_latents(vq, torch.cat([pixels, mixed.pixels])).chunk(2)
        quantised = latents
        nearest = latents.detach()
        commitment = latents.new_zeros(())
        chosen = torch.zeros(0, dtype=torch.long, device=device)
        if book is not None:
            chosen = nearest_codes(nearest, book.codes)
            nearest = F.embedding(chosen, book.codes)
            commitment = (latents - nearest).square().sum(-1).mean()
            quantised = latents + (nearest - latents).detach()
        loss = reconstruction_loss(decode_latents(vq, quantised), pixels, edge_weight=settings.edge_weight)
        locality = mixed.error(mixed_latents, nearest)
        optimizer.zero_grad()
        torch.autograd.backward(loss + settings.commitment * commitment + settings.locality * locality)
        nn.utils.clip_grad_norm_(vq.parameters(), 1.0)
        optimizer.step()
        moved = 0
        if book is not None:
            flat = latents.detach().flatten(0, 2)
            book.follow(flat, chosen.flatten())
            # the last fifth lets the use of moved codes show before it decides which are kept
            if book is scaffold and step % 20 == 0 and step < 0.8 * settings.thin_at_step:
                moved = book.restart(flat)
        distinct = len(set(chosen.flatten().tolist()))
        run.log(
            step, loss=loss.item(), commitment=commitment.item(), locality=locality.item(), codes=distinct, moved=moved
        )
    vq.quantize.embedding.weight.copy_(own.codes)
    vq.eval()


def _device(vq: JanusVQVAE) -> torch.device:
    device: torch.device = next(vq.parameters()).device
    return device


def _learning_rate(step: int, settings: VQSettings) -> float:
    part, total, peak = step, settings.thin_at_step, settings.learning_rate
    if step >= settings.thin_at_step:
        part, total, peak = step - total, settings.steps - total, settings.own_learning_rate
    return warmup_cosine(part, total=total, warmup=min(100, total // 2), peak=peak, floor=peak / 50)


@torch.no_grad()
def _start_codebook(
    vq: JanusVQVAE, scaffold: SphericalCodebook, images: NDArray[np.uint8], generator: torch.Generator
) -> None:
    chosen = torch.randperm(len(images), generator=generator)[:1024]
    device = _device(vq)
    parts = [encode_latents(vq, to_pixels(images, part, device)).flatten(0, 2) for part in torch.split(chosen, 64)]
    latents = torch.cat(parts).cpu()
    # a blank sky fills most cells: count each distinct latent once, so that it does not take most codes
    _, first = torch.unique(latents.mul(64).round(), dim=0, return_inverse=True)
    distinct = latents[torch.zeros(int(first.max()) + 1, dtype=torch.long).scatter_(0, first, torch.arange(len(first)))]
    scaffold.start(distinct.to(device), generator)


@torch.no_grad()
def encode_images(vq: JanusVQVAE, images: NDArray[np.uint8], batch_size: int = 64) -> Tensor:
    """Codes of uint8 pictures [N, H, W, 3]: [N, tokens] on the CPU, int16 where the codebook allows, else int32."""
    vocabulary = F.normalize(vq.quantize.embedding.weight, dim=-1)
    cells = (images.shape[1] // 2 ** (len(vq.config.channel_multiplier) - 1)) ** 2
    # allocated once: small results kept between large passing ones leave holes that memory grows by, 20 MB a batch
    codes = torch.empty(len(images), cells, dtype=torch.int16 if len(vocabulary) <= 2**15 else torch.int32)
    for part in torch.split(torch.arange(len(images)), batch_size):
        latents = encode_latents(vq, to_pixels(images, part, _device(vq)))
        codes[part] = nearest_codes(latents, vocabulary).flatten(1).to(codes)
    return codes
