"""The seam between HTTP and whatever makes pictures, and its first implementation."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from model.generate import generate
from model.janus import Janus
from model.params import SamplingParams
from model.vq import decode_images


@dataclass(frozen=True)
class Job:
    """n pictures of one prompt, checked and complete: nothing is left to a default."""

    prompt: list[int]
    negative_prompt: list[int] | None
    seeds: tuple[int, ...]
    params: SamplingParams


@dataclass(frozen=True)
class ModelInfo:
    """What the API needs to know of a model."""

    name: str
    image_size: int
    image_tokens: int
    recipe: SamplingParams


class Backend(Protocol):
    """Makes pictures from jobs."""

    @property
    def info(self) -> ModelInfo:
        """The model behind it."""

    def encode(self, prompt: str, *, name: str) -> list[int]:
        """Token ids of a prompt; raises PromptError, which names the field."""

    async def generate(self, job: Job) -> list[Image.Image]:
        """The job's pictures, one for each seed."""

    def close(self) -> None:
        """Finish what is running and let go of the device."""


class LocalBackend:
    """One model in this process, one job at a time, in the order they came."""

    def __init__(self, janus: Janus) -> None:
        self._janus = janus
        self._device = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")

    @property
    def info(self) -> ModelInfo:
        """The model behind it."""
        janus = self._janus
        return ModelInfo(janus.name, janus.image_size, janus.image_tokens, janus.recipe)

    def encode(self, prompt: str, *, name: str) -> list[int]:
        """Token ids of a prompt."""
        return self._janus.encode(prompt, name=name)

    async def generate(self, job: Job) -> list[Image.Image]:
        """The job's pictures, drawn on the device's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._device, self._generate, job)

    def _generate(self, job: Job) -> list[Image.Image]:
        n = len(job.seeds)
        codes = generate(
            self._janus,
            [job.prompt] * n,
            seeds=job.seeds,
            negative_prompts=None if job.negative_prompt is None else [job.negative_prompt] * n,
            **job.params.as_dict(),  # type: ignore[arg-type]
        )
        return [Image.fromarray(picture) for picture in decode_images(self._janus, codes).numpy()]

    def close(self) -> None:
        """Finish what is running; what waits is dropped."""
        self._device.shutdown(cancel_futures=True)
