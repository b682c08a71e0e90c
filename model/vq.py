"""Pictures from codes and codes from pictures."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.janus import Janus

# A crowd that ends together must not take all memory of a GPU: seven pictures of 384 × 384. A CPU is
# fastest with what its cache holds: four of 64 × 64 (docs/performance.md).
_PIXELS_AT_ONCE = 2**20
_PIXELS_AT_ONCE_ON_CPU = 2**14


def lay_out(vq: nn.Module, device: torch.device) -> None:
    """Order a network's weights in memory as its device reads them fastest; on a CPU channels come last."""
    if device.type == "cpu":
        vq.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def decode_codes(janus: Janus, codes: Tensor) -> Tensor:
    """The VQ decoder's output for codes [N, tokens]: float32 [N, 3, H, W], about [−1, 1], not clipped."""
    pixels = _PIXELS_AT_ONCE_ON_CPU if janus.device.type == "cpu" else _PIXELS_AT_ONCE
    at_once = max(1, pixels // janus.image_size**2)
    parts = [janus.network.model.vqmodel.decode(part).float() for part in torch.split(codes.to(janus.device), at_once)]
    return torch.cat(parts)


def to_uint8(pixels: Tensor) -> Tensor:
    """Decoder output [N, 3, H, W] as pictures [N, H, W, 3] uint8: clip((x + 1) / 2 · 255), truncated."""
    return ((pixels + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def decode_images(janus: Janus, codes: Tensor) -> Tensor:
    """Pictures of codes [N, tokens]: uint8 [N, H, W, 3] on the CPU."""
    return to_uint8(decode_codes(janus, codes)).cpu()


def preview_images(janus: Janus, codes: Tensor, rows: Sequence[int]) -> Tensor:
    """What pictures show whose first rows of codes are drawn: uint8 [N, H, W, 3] on the CPU.

    The decoder sees the last drawn row repeated below, because its normalisation looks at the whole
    picture; what it makes of that is not shown, but a pale tone of the picture's mean colour. Colours
    of a small image tokenizer still shift a little while rows are missing.

    Args:
        codes: [N, tokens]; those past `rows` are not read.
        rows: rows of codes drawn, from 1, of each picture.
    """
    grid = janus.grid
    drawn = torch.tensor(rows, device=codes.device)
    source = torch.arange(grid, device=codes.device).minimum(drawn[:, None] - 1)  # [N, grid]
    filled = codes.view(-1, grid, grid).gather(1, source[..., None].expand(-1, -1, grid))
    pixels = decode_codes(janus, filled.flatten(1))
    height = pixels.shape[2]
    line = torch.arange(height, device=pixels.device)
    undrawn = (line >= drawn[:, None].to(pixels.device) * (height // grid))[:, None, :, None]
    pale = 0.75 + 0.15 * pixels.mean((2, 3), keepdim=True)
    return to_uint8(torch.where(undrawn, pale, pixels)).cpu()


@torch.no_grad()
def encode_images(janus: Janus, pixels: Tensor) -> Tensor:
    """Codes of pictures [N, 3, H, W] in [−1, 1]: int64 [N, tokens].

    Latents and codebook are normalised first, as in the original; transformers' own encode is not.
    """
    vq = janus.network.model.vqmodel
    latents = vq.quant_conv(vq.encoder(pixels.to(janus.device, janus.dtype)))
    latents = F.normalize(latents.permute(0, 2, 3, 1).flatten(1, 2), dim=-1)
    return (latents @ F.normalize(vq.quantize.embedding.weight, dim=-1).T).argmax(-1)
