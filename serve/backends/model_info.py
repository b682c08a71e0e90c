"""Facts about a model that the API needs. Imports no torch."""

from dataclasses import dataclass

from model.params import SamplingParams
from model.quantization import Quantization


@dataclass(frozen=True)
class ModelInfo:
    """A model by name: picture side in pixels, codes of a picture, number of codes, default sampling settings,
    and how its weights are rounded."""

    name: str
    image_size: int
    image_tokens: int
    codebook_size: int
    sampling: SamplingParams
    quantization: Quantization | None = None
