"""Matrices of few bits, as the Triton kernels read them. Activations stay floats."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.quantization import Quantization

GROUP = 128  # inputs that share a scale in int4
_INT4_BYTES = GROUP // 2
_FP8 = torch.float8_e4m3fn


def quantized_bytes(outputs: int, inputs: int, quantization: Quantization) -> int:
    """Bytes of a `QuantizedMatrix`."""
    groups = -(-inputs // GROUP)
    return outputs * groups * (_INT4_BYTES + 4) if quantization == "int4" else outputs * (inputs + 4)


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [outputs, inputs] of integers or 8-bit floats, times scales.

    - int8: round(127 w / m), where m is the largest magnitude of an output's weights;
    - fp8: 448 w / m, rounded to 4 bits of exponent and 3 of mantissa (E4M3);
    - int4: round(7 w / m) with m of 128 inputs of an output. Of each 128, byte j has the weights j (low bits) and j + 64,
      plus 8.

    values: int8 or float8_e4m3fn [outputs, inputs], or uint8 [outputs, 64 · groups].
    scales: float32 [outputs, groups]; one group, but for int4.
    inputs: of the matrix.
    """

    values: Tensor
    scales: Tensor
    inputs: int

    @classmethod
    def of(cls, weight: Tensor, quantization: Quantization) -> "QuantizedMatrix":
        """Round a matrix of floats [outputs, inputs] to nearest."""
        outputs, inputs = weight.shape
        groups = -(-inputs // GROUP) if quantization == "int4" else 1
        filled = F.pad(weight.float(), (0, groups * GROUP - inputs)) if quantization == "int4" else weight.float()
        split = filled.view(outputs, groups, -1)
        most = {"int8": 127.0, "int4": 7.0, "fp8": torch.finfo(_FP8).max}[quantization]
        scales = split.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny) / most
        scaled = split / scales[..., None]
        if quantization == "fp8":
            return cls(scaled.view(outputs, inputs).to(_FP8), scales, inputs)
        whole = scaled.round()
        if quantization == "int8":
            return cls(whole.view(outputs, inputs).to(torch.int8), scales, inputs)
        low, high = (whole + 8).to(torch.uint8).view(outputs, groups, 2, _INT4_BYTES).unbind(2)
        return cls((low | high << 4).flatten(1), scales, inputs)

    @property
    def quantization(self) -> Quantization:
        names: dict[torch.dtype, Quantization] = {torch.int8: "int8", torch.uint8: "int4", _FP8: "fp8"}
        return names[self.values.dtype]

    @property
    def shape(self) -> torch.Size:
        """[outputs, inputs]."""
        return torch.Size([len(self.values), self.inputs])

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes

    def floats(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix that these values stand for, [outputs, inputs]."""
        values = self.values
        if values.dtype == torch.uint8:
            pairs = values.view(len(values), -1, _INT4_BYTES)
            whole = torch.stack([pairs & 15, pairs >> 4], dim=2).to(dtype) - 8
            return (whole.flatten(2) * self.scales[..., None].to(dtype)).flatten(1)[:, : self.inputs]
        return values.to(dtype) * self.scales.to(dtype)

    def copy_(self, other: "QuantizedMatrix") -> None:
        self.values.copy_(other.values)
        self.scales.copy_(other.scales)
