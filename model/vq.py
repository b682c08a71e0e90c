"""Pictures from codes and codes from pictures."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from model.janus import Janus


@torch.no_grad()
def decode_codes(janus: Janus, codes: Tensor) -> Tensor:
    """The VQ decoder's output for codes [N, tokens]: float32 [N, 3, H, W], about [−1, 1], not clipped."""
    return cast(Tensor, janus.network.model.vqmodel.decode(codes.to(janus.device)).float())


def to_uint8(pixels: Tensor) -> Tensor:
    """Decoder output [N, 3, H, W] as pictures [N, H, W, 3] uint8: clip((x + 1) / 2 · 255), truncated."""
    return ((pixels + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def decode_images(janus: Janus, codes: Tensor) -> Tensor:
    """Pictures of codes [N, tokens]: uint8 [N, H, W, 3] on the CPU."""
    return to_uint8(decode_codes(janus, codes)).cpu()


@torch.no_grad()
def encode_images(janus: Janus, pixels: Tensor) -> Tensor:
    """Codes of pictures [N, 3, H, W] in [−1, 1]: int64 [N, tokens].

    Latents and codebook are normalised first, as in the original; transformers' own encode is not.
    """
    vq = janus.network.model.vqmodel
    latents = vq.quant_conv(vq.encoder(pixels.to(janus.device, janus.dtype)))
    latents = F.normalize(latents.permute(0, 2, 3, 1).flatten(1, 2), dim=-1)
    return (latents @ F.normalize(vq.quantize.embedding.weight, dim=-1).T).argmax(-1)
