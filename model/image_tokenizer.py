"""Pictures from codes and codes from pictures."""

import ctypes
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from model.cpu.library import native_library
from model.cpu.pixels import NativePixelDecoder, planned_bytes
from model.janus import Janus

# A crowd that ends together must not take all memory of a GPU: seven pictures of 384 × 384. On a CPU what a cache
# holds is fastest: four of 64 × 64 for PyTorch, eight for C (docs/performance.md).
_PIXELS_AT_ONCE = 2**20
_PIXELS_AT_ONCE_ON_CPU = 2**14
_PIXELS_AT_ONCE_IN_C = 2**15


def lay_out(vq: nn.Module, device: torch.device) -> None:
    """Order a network's weights in memory as its device reads them fastest; on a CPU channels come last."""
    if device.type == "cpu":
        vq.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ImageTokenizer:
    """A model's VQ autoencoder: codes to pictures and back. One thread at a time may use it.

    Where others are decoded with it a picture's pixels may move by a level; its codes never do.

    Args:
        janus: once its network's weights have changed, `load_weights` must be called.
        native: whether convolutions may be C functions (`model.cpu.pixels`), where the machine has a compiler.
    """

    def __init__(self, janus: Janus, *, native: bool = True) -> None:
        self._janus = janus
        self._vq = janus.network.model.vqmodel
        library = _library(janus.device, janus.dtype) if native else None
        self._at_once = _at_once(janus.image_size, janus.device, in_c=library is not None)
        self._native = NativePixelDecoder(library, self._vq, pictures=self._at_once) if library else None

    def load_weights(self) -> None:
        """After the network's weights have changed, bring up to date what follows from them."""
        if self._native:
            self._native.load_weights()

    @property
    def table_bytes(self) -> int:
        """What is held beside the network's weights."""
        return self._native.nbytes if self._native else 0

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The VQ decoder's output for codes [N, tokens]: float32 [N, 3, H, W], about [−1, 1], not clipped."""
        decode = self._native or self._vq.decode
        parts = torch.split(codes.to(self._janus.device), self._at_once)
        return torch.cat([decode(part).float() for part in parts])

    def images(self, codes: Tensor) -> Tensor:
        """Pictures of codes [N, tokens]: uint8 [N, H, W, 3] on the CPU."""
        return to_uint8(self.decode(codes)).cpu()

    def previews(self, codes: Tensor, rows: Sequence[int]) -> Tensor:
        """What pictures show whose first rows of codes are drawn: uint8 [N, H, W, 3] on the CPU.

        The decoder sees the last drawn row repeated below, because its normalisation looks at the whole
        picture; what it makes of that is not shown, but a pale tone of the picture's mean colour. Colours
        of a small image tokenizer still shift a little while rows are missing.

        Args:
            codes: [N, tokens]; those past `rows` are not read.
            rows: rows of codes drawn, from 1, of each picture.
        """
        grid = self._janus.grid
        drawn = torch.tensor(rows, device=codes.device)
        source = torch.arange(grid, device=codes.device).minimum(drawn[:, None] - 1)  # [N, grid]
        filled = codes.view(-1, grid, grid).gather(1, source[..., None].expand(-1, -1, grid))
        pixels = self.decode(filled.flatten(1))
        height = pixels.shape[2]
        line = torch.arange(height, device=pixels.device)
        undrawn = (line >= drawn[:, None].to(pixels.device) * (height // grid))[:, None, :, None]
        pale = 0.75 + 0.15 * pixels.mean((2, 3), keepdim=True)
        return to_uint8(torch.where(undrawn, pale, pixels)).cpu()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Codes of pictures [N, 3, H, W] in [−1, 1]: int64 [N, tokens].

        Latents and codebook are normalised first, as in the original; transformers' own encode is not.
        """
        latents = self._vq.quant_conv(self._vq.encoder(pixels.to(self._janus.device, self._janus.dtype)))
        latents = F.normalize(latents.permute(0, 2, 3, 1).flatten(1, 2), dim=-1)
        return (latents @ F.normalize(self._vq.quantize.embedding.weight, dim=-1).T).argmax(-1)


def planned_table_bytes(vq: JanusVQVAE, device: torch.device, dtype: torch.dtype) -> int:
    """`table_bytes` of an image tokenizer, whose weights need not be there yet."""
    if _library(device, dtype) is None:
        return 0
    size = vq.config.num_patches * 2 ** (len(vq.config.channel_multiplier) - 1)
    return planned_bytes(vq, pictures=_at_once(size, device, in_c=True))


def to_uint8(pixels: Tensor) -> Tensor:
    """Decoder output [N, 3, H, W] as pictures [N, H, W, 3] uint8: clip((x + 1) / 2 · 255), truncated."""
    return ((pixels + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _library(device: torch.device, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The C functions, where they compute what a model on this device needs."""
    return native_library() if device.type == "cpu" and dtype == torch.float32 else None


def _at_once(image_size: int, device: torch.device, *, in_c: bool) -> int:
    on_cpu = _PIXELS_AT_ONCE_IN_C if in_c else _PIXELS_AT_ONCE_ON_CPU
    return max(1, (on_cpu if device.type == "cpu" else _PIXELS_AT_ONCE) // image_size**2)
