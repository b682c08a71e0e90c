"""A model on a device, with a cache and images that are half drawn, as the parts measure them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from bench.cuda.micro import micro_janus
from bench.speed.geometry import random_janus
from model.cuda.batch import KernelBatch
from model.cuda.step import KernelStep
from model.decoder import Decoder
from model.janus import Janus
from model.kv_cache import KVCache
from model.params import SamplingParams
from model.sampler.sampler import Sampler
from model.sampler.state import SampledImage

PROMPT_TOKENS = 30  # PairComp's prompts have 15 to 40
_MICRO_PROMPT_TOKENS = 4


@dataclass(frozen=True)
class Workbench:
    """Model, device and numbers of images that the parts measure.

    geometry: name of a geometry (`bench.speed.geometry`).
    images: numbers of guided images, ascending.
    dry: whether everything is done small, in Triton's interpreter, only to see that it works.
    """

    geometry: str
    images: Sequence[int]
    dry: bool

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    @cached_property
    def janus(self) -> Janus:
        return micro_janus() if self.dry else random_janus(self.geometry, self.device, torch.bfloat16)

    @cached_property
    def decoder(self) -> Decoder:
        return Decoder(self.janus, native=False, kernels=True)

    @property
    def step(self) -> KernelStep:
        step = self.decoder.kernels
        assert step is not None
        return step

    @property
    def params(self) -> SamplingParams:
        """Sampling settings that FocusDiff has published, or small ones for a dry run."""
        return SamplingParams() if not self.dry else SamplingParams(5.0, 1.0, 40, 1.0)

    @property
    def prompt(self) -> list[int]:
        return [1, *range(3, self.prompt_tokens + 1), 2]

    @property
    def prompt_tokens(self) -> int:
        return _MICRO_PROMPT_TOKENS if self.dry else PROMPT_TOKENS

    @property
    def times(self) -> int:
        """Number of repetitions that are timed."""
        return 1 if self.dry else 50

    def sampler(self, images: int) -> Sampler:
        """Sampler with room for so many guided images."""
        janus = self.janus
        return Sampler(
            rows=2 * images,
            tokens=janus.image_tokens,
            vocabulary=janus.codebook_size,
            grid=janus.grid,
            device=self.device,
            native=False,
            kernels=True,
        )

    def cache(self, images: int) -> KVCache:
        """Cache with room for so many guided images, and the spare row."""
        return self.decoder.cache(2 * images + 1, self.janus.max_prompt_tokens + self.janus.image_tokens)

    def half_drawn(self, sampler: Sampler, images: int) -> KernelBatch:
        """A batch of images, from a quarter to three quarters drawn, half on average: as when they arrive one by one."""
        tokens = self.janus.image_tokens
        batch = sampler.batch(
            [
                SampledImage(
                    (2 * number, 2 * number + 1),
                    (self.prompt_tokens, self.prompt_tokens),
                    self.params,
                    seed=number,
                    sampled=tokens // 4 + tokens * (2 * number + 1) // (4 * images),
                )
                for number in range(images)
            ]
        )
        assert isinstance(batch, KernelBatch)
        return batch

    @property
    def filled(self) -> int:
        """Tokens of a row that is half drawn."""
        return self.prompt_tokens + self.janus.image_tokens // 2

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices that a step reads."""
        return sum(matrix.nbytes for matrix in self.decoder.weights.matrices)

    @property
    def weight_numbers(self) -> int:
        """Number of weights in the matrices that a step reads."""
        return sum(matrix.shape.numel() for matrix in self.decoder.weights.matrices)

    def row_bytes(self, rows: int) -> int:
        """Keys and values that a step of so many half-drawn rows reads."""
        config = self.janus.network.config.text_config
        head = config.head_dim or config.hidden_size // config.num_attention_heads
        each = 2 * config.num_hidden_layers * config.num_key_value_heads * head * self.janus.dtype.itemsize
        return int(rows * self.filled * each)
