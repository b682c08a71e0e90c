"""Training of the image tokenizer (VQ autoencoder) on transformers' modules.

The straight-through estimator, the codebook and the loss are implemented here, because transformers'
forward decodes from indices and so gives the encoder no gradient from the picture. There is no adversarial
loss, since pictures of the procedural world are sharp under plain reconstruction.

The decoder has to learn everything that makes codes vary, so variation that is not content is removed
(numbers in docs/tiny.md):

- A code is trained to depend on its own cell, not on the rest of the picture (`transplant`).
- A large codebook, the scaffold, is learnt first. It starts from spherical k-means over the latents of an
  autoencoder trained without quantisation, then follows the running means of the latents assigned to each
  code (van den Oord et al. 2017, appendix A.1) on the unit sphere.
- Once the scaffold has settled, only its busiest codes that lie apart are kept
  (`SphericalCodebook.select_from`), because the choice between two near codes is arbitrary.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from train.schedule import warmup_cosine
from train.stage import Stage
from train.tiny.codebook import SphericalCodebook, nearest_codes
from train.tiny.recipe import VQTrainingRecipe
from train.tiny.transplant import transplant


def encode_latents(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Encode pictures as unit latents: [N, 3, H, W] in [−1, 1] → [N, h, w, D]."""
    return F.normalize(vq.quant_conv(vq.encoder(pixels)).permute(0, 2, 3, 1), dim=-1)


def decode_latents(vq: JanusVQVAE, latents: Tensor) -> Tensor:
    """Decode latents to pictures: [N, h, w, D] → [N, 3, H, W]."""
    pictures: Tensor = vq.decoder(vq.post_quant_conv(latents.permute(0, 3, 1, 2).contiguous()))
    return pictures


def reconstruction_loss(output: Tensor, target: Tensor, *, edge_weight: float) -> Tensor:
    """Error of pixels, plus `edge_weight` times the error of differences between neighbouring pixels.

    The edge term keeps outlines and letters sharp without an adversarial loss.
    """
    error = output - target
    edges = _robust(error.diff(dim=-1)) + _robust(error.diff(dim=-2))
    return _robust(error) + edge_weight * edges


def _robust(error: Tensor) -> Tensor:
    """Mean squared error, which finds the colours first, plus 0.1 × absolute error, dominant once errors are small."""
    return error.square().mean() + 0.1 * error.abs().mean()


def reset_convolutions(vq: JanusVQVAE) -> None:
    """Initialise every convolution as PyTorch does; with transformers' N(0, 0.02), training is several times slower."""
    for module in vq.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()


def to_pixels(images: NDArray[np.uint8], indices: Tensor, device: torch.device) -> Tensor:
    """Convert selected rows of a uint8 array [N, H, W, 3] to float pixels [n, 3, H, W] in [−1, 1]."""
    batch = torch.from_numpy(images[indices.numpy()]).to(device)
    return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def train_image_tokenizer(
    vq: JanusVQVAE, images: NDArray[np.uint8], folder: Path, recipe: VQTrainingRecipe, *, seed: int
) -> None:
    """Train a VQ autoencoder in place, resuming from `folder` if it holds a stopped run.

    Args:
        vq: initialised with `reset_convolutions` first; its trained codebook lies on the unit sphere.
        images: uint8 [N, H, W, 3].
        folder: folder for the run's state and curves.
        recipe: training settings.
        seed: decides initial weights, batches and codebook.
    """
    torch.manual_seed(seed)
    device = _device(vq)
    reset_convolutions(vq)
    vq.train().requires_grad_(True)
    vq.quantize.requires_grad_(False)
    scaffold, own = (
        SphericalCodebook(
            size,
            vq.config.embed_dim,
            decay=recipe.codebook_decay,
            restart_below=recipe.restart_below,
            separation=recipe.separation,
        ).to(device)
        for size in (recipe.scaffold_size, vq.config.num_embeddings)
    )
    optimizer = torch.optim.AdamW(
        [p for p in vq.parameters() if p.requires_grad], betas=(0.9, 0.98), weight_decay=1e-4, fused=True
    )
    run = Stage(folder, recipe.steps)
    cells = images.shape[1] // 2 ** (len(vq.config.channel_multiplier) - 1)
    for step in run.steps({"vq": vq, "scaffold": scaffold, "own": own, "optimizer": optimizer}):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, recipe)
        if step == recipe.continuous_steps:
            _start_codebook(vq, scaffold, images, generator)
        if step == recipe.select_at_step:
            own.select_from(scaffold)
        book = None
        if step >= recipe.continuous_steps:
            book = scaffold if step < recipe.select_at_step else own
        pixels = to_pixels(images, torch.randint(len(images), (recipe.batch_size,), generator=generator), device)
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
        loss = reconstruction_loss(decode_latents(vq, quantised), pixels, edge_weight=recipe.edge_weight)
        locality = mixed.error(mixed_latents, nearest)
        optimizer.zero_grad()
        torch.autograd.backward(loss + recipe.commitment * commitment + recipe.locality * locality)
        nn.utils.clip_grad_norm_(vq.parameters(), 1.0)
        optimizer.step()
        moved = 0
        if book is not None:
            flat = latents.detach().flatten(0, 2)
            book.update(flat, chosen.flatten())
            # none in the last fifth: the use of moved codes must settle before it decides which are kept
            if book is scaffold and step % 20 == 0 and step < 0.8 * recipe.select_at_step:
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


def _learning_rate(step: int, recipe: VQTrainingRecipe) -> float:
    part, total, peak = step, recipe.select_at_step, recipe.learning_rate
    if step >= recipe.select_at_step:
        part, total, peak = step - total, recipe.steps - total, recipe.final_learning_rate
    return warmup_cosine(part, total=total, warmup=min(100, total // 2), peak=peak, floor=peak / 50)


@torch.no_grad()
def _start_codebook(
    vq: JanusVQVAE, scaffold: SphericalCodebook, images: NDArray[np.uint8], generator: torch.Generator
) -> None:
    chosen = torch.randperm(len(images), generator=generator)[:1024]
    device = _device(vq)
    parts = [encode_latents(vq, to_pixels(images, part, device)).flatten(0, 2) for part in torch.split(chosen, 64)]
    latents = torch.cat(parts).cpu()
    # most cells are blank sky: count each distinct latent once, so that sky does not take most codes
    _, first = torch.unique(latents.mul(64).round(), dim=0, return_inverse=True)
    distinct = latents[torch.zeros(int(first.max()) + 1, dtype=torch.long).scatter_(0, first, torch.arange(len(first)))]
    scaffold.initialise(distinct.to(device), generator)


@torch.no_grad()
def encode_images(vq: JanusVQVAE, images: NDArray[np.uint8], batch_size: int = 64) -> Tensor:
    """Encode uint8 pictures [N, H, W, 3]: codes [N, tokens] on the CPU, int16 if the codebook allows, else int32."""
    vocabulary = F.normalize(vq.quantize.embedding.weight, dim=-1)
    cells = (images.shape[1] // 2 ** (len(vq.config.channel_multiplier) - 1)) ** 2
    # allocated once: small results kept between large temporaries fragment memory, which grows 20 MB per batch
    codes = torch.empty(len(images), cells, dtype=torch.int16 if len(vocabulary) <= 2**15 else torch.int32)
    for part in torch.split(torch.arange(len(images)), batch_size):
        latents = encode_latents(vq, to_pixels(images, part, _device(vq)))
        codes[part] = nearest_codes(latents, vocabulary).flatten(1).to(codes)
    return codes
