"""Pictures from codes and codes from pictures."""

import ctypes
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from model.cpu.library import native_library
from model.cpu.pixels import NativePixelDecoder, planned_bytes
from model.device import upload
from model.janus import Janus

# Pixels decoded at once. On a GPU this bounds memory when many images end together: seven pictures of 384 × 384.
# On a CPU it fits the caches: four pictures of 64 × 64 for PyTorch, eight for C (docs/performance.md).
_PIXELS_AT_ONCE = 2**20
_PIXELS_AT_ONCE_ON_CPU = 2**14
_PIXELS_AT_ONCE_IN_C = 2**15


def use_fast_memory_format(vq: nn.Module, device: torch.device) -> None:
    """Use the memory format of weights that is fastest on the device: channels last on a CPU and on NVIDIA's tensor cores."""
    if device.type in ("cpu", "cuda"):
        vq.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ImageTokenizer:
    """A model's VQ autoencoder: codes to pictures and back. Not thread-safe.

    Where C functions are used, a picture's pixels do not depend on the pictures decoded beside it; elsewhere they may
    differ by one level. Its codes never differ.

    Args:
        janus: after its network's weights have changed, call `load_weights`.
        native: use the C convolutions of `model.cpu.pixels`, if the machine has a compiler and the model is on
            a CPU in float32.
    """

    def __init__(self, janus: Janus, *, native: bool = True) -> None:
        self._janus = janus
        self._vq = janus.network.model.vqmodel
        library = _library(janus.device, janus.dtype) if native else None
        self._chunk_size = pictures_at_once(janus.image_size, janus.device, in_c=library is not None)
        self._native = NativePixelDecoder(library, self._vq, pictures=self._chunk_size) if library else None

    def load_weights(self) -> None:
        """Update the tables computed from the network's weights, after these have changed."""
        if self._native:
            self._native.load_weights()

    @property
    def table_bytes(self) -> int:
        """Bytes of tables and buffers held beside the network's weights."""
        return self._native.nbytes if self._native else 0

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes [N, tokens] to pixels: float32 [N, 3, H, W], about [−1, 1], not clipped."""
        decode = self._native or self._vq.decode
        parts = torch.split(codes.to(self._janus.device), self._chunk_size)
        return torch.cat([decode(part).float() for part in parts])

    def images(self, codes: Tensor) -> Tensor:
        """Decode codes [N, tokens] to pictures: uint8 [N, H, W, 3] on the model's device."""
        return to_uint8(self.decode(codes))

    def previews(self, codes: Tensor, rows: Sequence[int]) -> Tensor:
        """Decode unfinished pictures, of which only the first rows of codes are drawn: uint8 [N, H, W, 3] on the model's device.

        The decoder normalises over the whole picture, so its input repeats the last drawn row down to the
        bottom. The undrawn part of its output is replaced by a pale tone of the picture's mean colour. With a
        small image tokenizer, colours still shift a little until all rows are drawn.

        Args:
            codes: [N, tokens]; codes after the drawn rows are not read.
            rows: number of rows of codes drawn for each picture, at least 1.
        """
        grid = self._janus.grid
        drawn = upload(rows, codes.device)
        source = torch.arange(grid, device=codes.device).minimum(drawn[:, None] - 1)  # [N, grid]
        filled = codes.view(-1, grid, grid).gather(1, source[..., None].expand(-1, -1, grid))
        pixels = self.decode(filled.flatten(1))
        height = pixels.shape[2]
        line = torch.arange(height, device=pixels.device)
        undrawn = (line >= drawn[:, None].to(pixels.device) * (height // grid))[:, None, :, None]
        pale = 0.75 + 0.15 * pixels.mean((2, 3), keepdim=True)
        return to_uint8(torch.where(undrawn, pale, pixels))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pictures [N, 3, H, W] in [−1, 1] to codes: int64 [N, tokens].

        Latents and codebook are normalised first, as in the original; transformers' own encode does not normalise.
        """
        latents = self._vq.quant_conv(self._vq.encoder(pixels.to(self._janus.device, self._janus.dtype)))
        latents = F.normalize(latents.permute(0, 2, 3, 1).flatten(1, 2), dim=-1)
        return (latents @ F.normalize(self._vq.quantize.embedding.weight, dim=-1).T).argmax(-1)


def planned_table_bytes(vq: JanusVQVAE, device: torch.device, dtype: torch.dtype) -> int:
    """`table_bytes` of an image tokenizer before its weights are loaded."""
    if _library(device, dtype) is None:
        return 0
    size = vq.config.num_patches * 2 ** (len(vq.config.channel_multiplier) - 1)
    return planned_bytes(vq, pictures=pictures_at_once(size, device, in_c=True))


def to_uint8(pixels: Tensor) -> Tensor:
    """Convert decoder output [N, 3, H, W] to pictures [N, H, W, 3] uint8: clip((x + 1) / 2 · 255), truncated."""
    return ((pixels + 1) / 2 * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _library(device: torch.device, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The C functions; None without a compiler, or if they do not support the device or dtype."""
    return native_library() if device.type == "cpu" and dtype == torch.float32 else None


def pictures_at_once(image_size: int, device: torch.device, *, in_c: bool = False) -> int:
    """Number of pictures that are decoded in one call, by PyTorch or by the C functions."""
    on_cpu = _PIXELS_AT_ONCE_IN_C if in_c else _PIXELS_AT_ONCE_ON_CPU
    return max(1, (on_cpu if device.type == "cpu" else _PIXELS_AT_ONCE) // image_size**2)
