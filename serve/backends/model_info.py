"""Facts about a model that the API needs. Imports no torch."""

from dataclasses import dataclass

from model.params import SamplingParams


@dataclass(frozen=True)
class ModelInfo:
    """A model by name: picture side in pixels, codes of a picture, number of codes, default sampling settings."""

    name: str
    image_size: int
    image_tokens: int
    codebook_size: int
    sampling: SamplingParams
    int8: bool = False
