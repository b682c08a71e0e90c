"""The image tokenizer's decoder with convolutions over large pictures in C, for machines with a C compiler.

On a CPU, these convolutions take most of the time of a picture. `pixels.c` needs a quarter of the multiplications
and applies norm and SiLU while that part of the picture is in the cache (docs/performance.md).
"""

import ctypes
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEResnetBlock

from model.cpu.library import addresses, numbers, pointers

_WIDTH = 16  # channels in the longest vector of pixels.c
_OUTPUTS = 32  # output channels that pixels.c computes in one pass
# Filter transform G, from three weights of a row or column to six elements (Lavin and Gray 2016, section 4.3).
_FILTER_TRANSFORM = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
         (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip


class _Convolution(ctypes.Structure):
    _fields_ = [*pointers("table bias"), *numbers("inputs outputs")]


class _Pictures(ctypes.Structure):
    _fields_ = [*pointers("input residual output"), *numbers("count height width doubled")]


class _Norm(ctypes.Structure):
    _fields_ = [*pointers("weight bias"), *numbers("channels groups"), ("epsilon", ctypes.c_double)]

    @classmethod
    def of(cls, norm: nn.GroupNorm) -> "_Norm":
        return cls(*addresses([norm.weight, norm.bias]), norm.num_channels, norm.num_groups, norm.eps)


class NativePixelDecoder:
    """Decodes codes to pixels, which do not depend on the pictures decoded beside them.

    Not thread-safe, because the buffers between convolutions are reused.

    Args:
        library: the compiled C functions (`model.cpu.library`).
        vq: image tokenizer, float32 on the CPU. Call `load_weights` whenever its weights have changed.
        pictures: largest number of pictures in one call.
    """

    def __init__(self, library: ctypes.CDLL, vq: JanusVQVAE, *, pictures: int) -> None:
        self._library = library
        self._vq = vq
        self._scratch = torch.zeros(0, dtype=torch.float32)
        self._buffers = torch.empty(2, pictures * _most_outputs(vq), dtype=torch.float32)
        self._tables: dict[nn.Conv2d, tuple[Tensor, Tensor]] = {}
        self.load_weights()

    @torch.no_grad()
    def load_weights(self) -> None:
        """Compute the tables of transformed weights from the current weights."""
        for convolution, pixels in _convolutions(self._vq):
            if _suits(convolution, pixels):
                self._tables[convolution] = _table(convolution)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables and of the buffers between convolutions."""
        return self._buffers.nbytes + sum(table.nbytes for table, _ in self._tables.values())

    def __call__(self, codes: Tensor) -> Tensor:
        """Decode codes [N, tokens], N ≤ `pictures`, like `JanusVQVAE.decode`: float32 [N, 3, H, W]."""
        decoder = self._vq.decoder
        x = _apply(self._vq.post_quant_conv, self._vq.quantize.get_codebook_entry(codes))
        x = _apply(decoder.mid, _apply(decoder.conv_in, x))
        for level in decoder.up:
            for i, block in enumerate(level.block):
                x = self._residual(block, x)
                if level.attn:
                    x = _apply(level.attn[i], x)
            if hasattr(level, "upsample"):
                x = self.convolve(level.upsample.conv, x, doubled=True)
        return self.convolve(decoder.conv_out, x, decoder.norm_out).clone()

    def _residual(self, block: JanusVQVAEResnetBlock, x: Tensor) -> Tensor:
        inner = self.convolve(block.conv1, x, block.norm1)
        kept = x if block.in_channels == block.out_channels else _apply(block.nin_shortcut, x)
        return self.convolve(
            block.conv2, inner, block.norm2, residual=kept.contiguous(memory_format=torch.channels_last)
        )

    def convolve(
        self,
        convolution: nn.Conv2d,
        x: Tensor,
        norm: nn.GroupNorm | None = None,
        *,
        residual: Tensor | None = None,
        doubled: bool = False,
    ) -> Tensor:
        """Convolve x [N, C, H, W], after norm and SiLU if `norm` is given, and after 2× upsampling if `doubled`.

        With `residual` the result is added to it in place. Without, C writes to a buffer that later results overwrite.
        """
        if convolution not in self._tables:
            x = x if norm is None else F.silu(norm(x))
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") if doubled else x
            result = _apply(convolution, x)
            return result if residual is None else residual.add_(result)
        x = x.contiguous(memory_format=torch.channels_last)
        count, channels, height, width = x.shape
        threads = torch.get_num_threads()
        scratch = self._scratch_of(self._library.convolve_scratch(channels, count, height * width, threads))
        height, width = height * (1 + doubled), width * (1 + doubled)
        output = residual
        if output is None:
            output = self._buffer((count, height, width, convolution.out_channels), beside=x)
        assert output.is_contiguous(memory_format=torch.channels_last)
        added = None if residual is None else residual.data_ptr()
        pictures = _Pictures(x.data_ptr(), added, output.data_ptr(), count, height, width, doubled)
        weights = _Convolution(*addresses(self._tables[convolution]), channels, convolution.out_channels)
        first = None if norm is None else ctypes.byref(_Norm.of(norm))
        self._library.convolve(ctypes.byref(weights), first, ctypes.byref(pictures), scratch.data_ptr(), threads)
        return output

    def _buffer(self, shape: tuple[int, int, int, int], *, beside: Tensor) -> Tensor:
        """The one of the two buffers that `beside` does not use, for `shape` (N, H, W, C): a view [N, C, H, W].

        Allocating memory of this size would cost a fifth of a convolution.
        """
        which = int(self._buffers.data_ptr() == beside.data_ptr())
        return self._buffers[which, : math.prod(shape)].view(shape).permute(0, 3, 1, 2)

    def _scratch_of(self, size: int) -> Tensor:
        if len(self._scratch) < size:
            self._scratch = torch.zeros(size, dtype=torch.float32)
        return self._scratch


def _apply(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module of PyTorch to pictures [N, C, H, W], with a result that does not depend on N.

    For a single small picture PyTorch's convolution takes another algorithm, whose rounding differs.
    """
    result: Tensor = module(x) if len(x) > 1 else module(torch.cat([x, x]))[:1]
    return result


def planned_bytes(vq: JanusVQVAE, *, pictures: int) -> int:
    """`NativePixelDecoder.nbytes` of an image tokenizer; its weights need not be loaded yet."""
    tables = sum(
        36 * convolution.in_channels * _rounded_up(convolution.out_channels)
        for convolution, pixels in _convolutions(vq)
        if _suits(convolution, pixels)
    )
    return 4 * (tables + 2 * pictures * _most_outputs(vq))


def _suits(convolution: nn.Conv2d, pixels: int) -> bool:
    """Whether C computes this convolution, for output pictures of `pixels` pixels.

    Its table is four times the size of the weights. With many channels and a small picture, reading it takes longer
    than multiplying, and the memory is better saved.
    """
    return convolution.in_channels % _WIDTH == 0 and 9 * convolution.in_channels <= pixels


def _most_outputs(vq: JanusVQVAE) -> int:
    """Floats in the largest output that C computes for one picture."""
    return max((c.out_channels * pixels for c, pixels in _convolutions(vq) if _suits(c, pixels)), default=0)


def _convolutions(vq: JanusVQVAE) -> Iterator[tuple[nn.Conv2d, int]]:
    """The decoder's 3 × 3 convolutions after its middle block, each with the number of pixels of its output."""
    height, width = vq.quantize.quant_state_dims
    for level in vq.decoder.up:
        for block in level.block:
            yield block.conv1, height * width
            yield block.conv2, height * width
        if hasattr(level, "upsample"):
            height, width = 2 * height, 2 * width
            yield level.upsample.conv, height * width
    yield vq.decoder.conv_out, height * width


def _table(convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Transformed weights [outputs / 32, 36, inputs, 32] and bias [outputs] for pixels.c, outputs padded with zeros."""
    transform = torch.tensor(_FILTER_TRANSFORM, dtype=torch.float64)
    both = torch.kron(transform, transform)  # [36, 9], transforms rows and columns
    outputs, inputs = convolution.out_channels, convolution.in_channels
    more = _rounded_up(outputs) - outputs
    weight = F.pad(convolution.weight.double(), (0, 0, 0, 0, 0, 0, 0, more)).view(-1, _OUTPUTS, inputs, 9)
    table = (both @ weight.permute(0, 3, 2, 1).flatten(2)).view(-1, 36, inputs, _OUTPUTS).float()
    assert convolution.bias is not None
    return table, F.pad(convolution.bias, (0, more))


def _rounded_up(outputs: int) -> int:
    """`outputs` rounded up to a multiple of 32."""
    return -(-outputs // _OUTPUTS) * _OUTPUTS
