"""Pictures of any text-to-image pipeline of diffusers."""

import inspect
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from bench.pictures.errors import GenerationError
from bench.pictures.generator import Drawings, Drawn
from bench.pictures.picture import Part
from model.errors import first_line
from train.provenance import provenance


class DiffusersGenerator:
    """Draws with a pipeline as its authors saved it.

    Args:
        source: folder or hub id of the pipeline.
        revision: branch, tag or commit at the hub.
        device: where it runs.
        dtype: of its weights.
        batch: pictures drawn at once.
        steps, guidance_scale: in place of the pipeline's defaults.

    Raises:
        GenerationError: diffusers is not installed, or the folder is no text-to-image pipeline.
    """

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        device: torch.device,
        dtype: torch.dtype,
        batch: int,
        steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        try:
            from diffusers import DiffusionPipeline
        except ImportError:
            raise GenerationError("diffusers is not installed: pip install 'focusdiff[diffusers]'") from None
        try:
            local = Path(source).expanduser()
            folder = local if local.is_dir() else Path(DiffusionPipeline.download(source, revision=revision))
            self._pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype).to(device)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, AttributeError, ImportError) as error:
            raise GenerationError(f"{source} is no pipeline of diffusers that can be loaded: {error}") from None
        if "prompt" not in inspect.signature(self._pipeline.__call__).parameters:
            raise GenerationError(f"{source}: {type(self._pipeline).__name__} draws from no prompt")
        self._pipeline.set_progress_bar_config(disable=True)
        self._device, self._batch = device, batch
        given = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
        self._arguments = {name: value for name, value in given.items() if value is not None}
        for name in self._arguments:
            if name not in inspect.signature(self._pipeline.__call__).parameters:
                raise GenerationError(f"{source}: {type(self._pipeline).__name__} has no {name}")
        self._name = local.resolve().name if local.is_dir() else source
        self._weights = _digest(folder)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Pipeline, digest of its files, and the arguments of its call with their defaults."""
        parameters = inspect.signature(self._pipeline.__call__).parameters
        names = ("num_inference_steps", "guidance_scale", "height", "width")
        defaults = {name: parameters[name].default for name in names if name in parameters}
        return {
            "generator": "diffusers",
            "model": self._name,
            "pipeline": type(self._pipeline).__name__,
            "weights": self._weights,
            "dtype": str(self._pipeline.dtype).removeprefix("torch."),
            "sampling": {**defaults, **self._arguments},
        }

    @property
    def provenance(self) -> Mapping[str, Any]:
        import diffusers

        return {**provenance(device=self._device, dtype=self._pipeline.dtype), "diffusers": diffusers.__version__}

    def draw(self, parts: Sequence[Part]) -> Drawings:
        """Draw each part (`bench.pictures.generator.Generator`); each has a random generator of its own."""
        for start in range(0, len(parts), self._batch):
            yield from self._draw_batch(parts[start : start + self._batch])

    def _draw_batch(self, parts: Sequence[Part]) -> list[Drawn]:
        generators = [torch.Generator(self._device).manual_seed(part.seed) for part in parts]
        try:
            images = self._pipeline(prompt=[part.prompt for part in parts], generator=generators, **self._arguments)
            return [Drawn(part, image.convert("RGB")) for part, image in zip(parts, images.images, strict=True)]
        except Exception as error:  # pipelines raise errors of any type
            batch = f", first of a batch of {len(parts)}," if len(parts) > 1 else ""
            raise GenerationError(
                f"{parts[0].picture.file}{batch} cannot be drawn from {parts[0].prompt!r}: "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error


def _digest(folder: Path) -> str:
    """First 16 hex digits of the SHA-256 of all files' names and contents."""
    digest = sha256()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            while block := file.read(2**24):
                digest.update(block)
    return digest.hexdigest()[:16]
