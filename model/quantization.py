"""Ways of rounding the decoder's weights. Imports no torch."""

from typing import Literal, get_args

Quantization = Literal["int8", "int4", "fp8"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
