"""The image tokenizer's decoder with its convolutions over large pictures in C, where the machine has a compiler.

They are most of a picture's time on a CPU. `pixels.c` multiplies a quarter as often for them and
has norm and SiLU done on the way, while a part of the picture is in the cache (docs/performance.md).
"""

import ctypes
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEResnetBlock

from model.cpu.library import addresses, numbers, pointers

_WIDTH = 16  # channels in the widest vector of pixels.c
_OUTPUTS = 32  # channels that it computes together
# Three weights of a line as the six numbers that are multiplied (Lavin and Gray 2016, section 4.3).
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
    """Pictures of codes with fixed weights; by one thread at a time, for what lies between convolutions is kept.

    Args:
        vq: float32 on the CPU; once its weights have changed, `load_weights` must be called.
        pictures: the most at once.
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
        """Make the tables of the weights as they are now."""
        for convolution, pixels in _convolutions(self._vq):
            if _suits(convolution, pixels):
                self._tables[convolution] = _table(convolution)

    @property
    def nbytes(self) -> int:
        """Of the tables, and of the buffers between convolutions."""
        return self._buffers.nbytes + sum(table.nbytes for table, _ in self._tables.values())

    def __call__(self, codes: Tensor) -> Tensor:
        """What `JanusVQVAE.decode` makes of codes [N, tokens]: float32 [N, 3, H, W]; N is at most `pictures`."""
        decoder = self._vq.decoder
        x = self._vq.post_quant_conv(self._vq.quantize.get_codebook_entry(codes))
        x = decoder.mid(decoder.conv_in(x))
        for level in decoder.up:
            for i, block in enumerate(level.block):
                x = self._residual(block, x)
                if level.attn:
                    x = level.attn[i](x)
            if hasattr(level, "upsample"):
                x = self.convolve(level.upsample.conv, x, doubled=True)
        return self.convolve(decoder.conv_out, x, decoder.norm_out).clone()

    def _residual(self, block: JanusVQVAEResnetBlock, x: Tensor) -> Tensor:
        inner = self.convolve(block.conv1, x, block.norm1)
        kept = x if block.in_channels == block.out_channels else block.nin_shortcut(x)
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
        """The convolution of x [N, C, H, W], normed and through SiLU if there is a norm, or doubled.

        A residual is added to, in place; without one the result lies in a buffer, which later results overwrite.
        """
        if convolution not in self._tables:
            x = x if norm is None else F.silu(norm(x))
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") if doubled else x
            result: Tensor = convolution(x)
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
        """That buffer of the two where `beside` is not, for N, H, W and C: [N, C, H, W].

        New memory of this size costs as much as a fifth of a convolution.
        """
        which = int(self._buffers.data_ptr() == beside.data_ptr())
        return self._buffers[which, : math.prod(shape)].view(shape).permute(0, 3, 1, 2)

    def _scratch_of(self, size: int) -> Tensor:
        if len(self._scratch) < size:
            self._scratch = torch.zeros(size, dtype=torch.float32)
        return self._scratch


def planned_bytes(vq: JanusVQVAE, *, pictures: int) -> int:
    """`NativePixelDecoder.nbytes` of an image tokenizer, whose weights need not be there yet."""
    tables = sum(
        36 * convolution.in_channels * _rounded_up(convolution.out_channels)
        for convolution, pixels in _convolutions(vq)
        if _suits(convolution, pixels)
    )
    return 4 * (tables + 2 * pictures * _most_outputs(vq))


def _suits(convolution: nn.Conv2d, pixels: int) -> bool:
    """Whether C is to compute a convolution over pictures of so many pixels.

    Its table holds four times the weights: in a small picture with many channels reading them takes
    longer than multiplying, and memory is worth more.
    """
    return convolution.in_channels % _WIDTH == 0 and 9 * convolution.in_channels <= pixels


def _most_outputs(vq: JanusVQVAE) -> int:
    """Numbers of the largest output of one picture that C computes."""
    return max((c.out_channels * pixels for c, pixels in _convolutions(vq) if _suits(c, pixels)), default=0)


def _convolutions(vq: JanusVQVAE) -> Iterator[tuple[nn.Conv2d, int]]:
    """The decoder's convolutions of 3 × 3 after its middle, each with the number of pixels of what it makes."""
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
    """Weights [outputs, inputs, 3, 3] and bias as pixels.c reads them: [outputs / 32, 36, inputs, 32] and [outputs]."""
    transform = torch.tensor(_FILTER_TRANSFORM, dtype=torch.float64)
    both = torch.kron(transform, transform)  # of lines, then of columns: [36, 9]
    outputs, inputs = convolution.out_channels, convolution.in_channels
    more = _rounded_up(outputs) - outputs
    weight = F.pad(convolution.weight.double(), (0, 0, 0, 0, 0, 0, 0, more)).view(-1, _OUTPUTS, inputs, 9)
    table = (both @ weight.permute(0, 3, 2, 1).flatten(2)).view(-1, 36, inputs, _OUTPUTS).float()
    assert convolution.bias is not None
    return table, F.pad(convolution.bias, (0, more))


def _rounded_up(outputs: int) -> int:
    """So many channels and those that fill the last ones up."""
    return -(-outputs // _OUTPUTS) * _OUTPUTS
