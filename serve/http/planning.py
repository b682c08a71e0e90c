"""Requests to jobs: fill in defaults and refuse fields that do not fit the model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from model.errors import PromptError
from model.params import SamplingParams, resolve_seeds
from serve.backends.protocol import Backend
from serve.engine.job import Job
from serve.engine.previews import preview_rows
from serve.http.errors import InvalidRequest
from serve.http.schemas import OutputFormat, PictureRequest, Resizing
from serve.http.sizes import Fit, Size, parse_size, square_side


@dataclass(frozen=True)
class PictureFormat:
    """Format of answered pictures.

    name: file type.
    quality: of JPEG and WebP, 0 to 100.
    drawn: size of the model's pictures.
    size: size in the answer.
    fit: how another shape is filled.
    """

    name: OutputFormat
    quality: int
    drawn: Size
    size: Size
    fit: Fit

    @property
    def side(self) -> int:
        """Side in pixels that the drawn square is brought to, before it is padded or cropped."""
        return square_side(self.size, self.fit)

    def resizing(self, *filters: str) -> Resizing | None:
        """Description of the resizing, for the answer; None if pictures keep their size. `filters`: one for each picture."""
        if self.size == self.drawn:
            return None
        named = "; ".join(dict.fromkeys(filters))
        return Resizing(drawn=str(self.drawn), filter=named, fit=None if self.size.is_square else self.fit)


def seeds_of(request: PictureRequest) -> tuple[int, ...]:
    """Seeds of a request's pictures, one per image.

    Raises:
        InvalidRequest: a list with another number of seeds, or seeds that are too large.
    """
    try:
        return tuple(resolve_seeds(request.seed, request.drawn))
    except ValueError as error:
        raise InvalidRequest(str(error), param="seed") from None


def picture_format(
    request: PictureRequest, backend: Backend, *, size: str | None = None, fit: Fit = "pad", strict: bool = False
) -> PictureFormat:
    """Format and size of a request's pictures.

    Raises:
        InvalidRequest: the size is not offered, or a compression is given for PNG.
    """
    if request.output_compression is not None and request.output_format == "png":
        raise InvalidRequest("output_compression applies to jpeg and webp, not png", param="output_compression")
    quality = 100 if request.output_compression is None else request.output_compression
    own = backend.info.image_size
    wanted = parse_size(size, own=own, fit=fit, strict=strict)
    return PictureFormat(request.output_format, quality, Size(own, own), wanted, fit)


def job_of(
    request: PictureRequest, backend: Backend, prompts: Mapping[str, str], seeds: tuple[int, ...], *, deadline: float
) -> Job:
    """Build the job of one prompt on one model.

    Args:
        request: settings of the pictures.
        backend: model that draws them.
        prompts: one entry, {field name: prompt}; error messages name the field.
        seeds: one per picture.
        deadline: in seconds of the monotonic clock.

    Raises:
        InvalidRequest: a field does not fit the model.
    """
    ((field, prompt),) = prompts.items()
    ids = _encode(backend, prompt, field)
    negative = None
    if request.negative_prompt is not None:
        negative = _encode(backend, request.negative_prompt, "negative_prompt")
    if (request.top_k or 0) > backend.info.codebook_size:
        raise InvalidRequest(f"top_k must be at most {backend.info.codebook_size}, the codebook's size", param="top_k")
    params: SamplingParams = backend.info.sampling.override(**request.sampling)
    return Job(ids, negative, seeds, params, preview_rows=_preview_rows(request, backend), deadline=deadline)


def _encode(backend: Backend, text: str, name: str) -> list[int]:
    try:
        return backend.encode(text, name=name)
    except PromptError as error:
        raise InvalidRequest(str(error), param=name.partition("[")[0]) from None


def _preview_rows(request: PictureRequest, backend: Backend) -> frozenset[int]:
    rows = math.isqrt(backend.info.image_tokens)
    wanted = request.partial_images
    for name in ("partial_images", "queue_events"):
        if getattr(request, name) and not request.stream:
            raise InvalidRequest(f"{name} needs stream: true", param=name)
    if wanted >= rows:
        raise InvalidRequest(
            f"partial_images must be at most {rows - 1}: pictures of {backend.info.name} have {rows} rows",
            param="partial_images",
        )
    return preview_rows(wanted, rows)
