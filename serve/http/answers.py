"""Pictures for answers: files in the requested format, with the settings that reproduce them."""

import asyncio
import base64
from typing import Any

from PIL import Image

from pairs.picture_file import encode
from serve.backends.generation import Generation
from serve.http.planning import PictureFormat
from serve.http.schemas import PictureRequest, Usage
from serve.http.sizes import resize
from serve.upscaling.upscaler import LANCZOS


async def picture_file(
    image: Image.Image, format: PictureFormat, metadata: dict[str, Any] | None = None, *, filter: str = LANCZOS
) -> bytes:
    """Encode a picture as a file, in a thread so that the event loop stays free. `filter` says how it is enlarged."""
    return await asyncio.to_thread(_encode, image, format, metadata or {}, filter)


def metadata(generation: Generation, index: int, request: PictureRequest, prompt: str) -> dict[str, Any]:
    """Settings stored in a picture's file, with which the same model reproduces it."""
    negative = {} if request.negative_prompt is None else {"negative_prompt": request.negative_prompt}
    weights = {"weights": generation.info.quantization} if generation.info.quantization else {}
    job = generation.job
    known = {"model": generation.info.name, "prompt": prompt, "seed": job.seeds[index]}
    return {**known, **job.params.as_dict(), **weights, **negative}


def usage(generation: Generation, images: int) -> Usage:
    """Prompt tokens read and codes drawn for `images` images of a job."""
    return Usage.of(read=len(generation.job.prompt), drawn=generation.info.image_tokens * images)


def as_base64(content: bytes) -> str:
    """Encode a file as base64 text."""
    return base64.b64encode(content).decode()


def _encode(image: Image.Image, format: PictureFormat, metadata: dict[str, Any], filter: str) -> bytes:
    resizing = format.resizing(filter)
    if resizing is not None:
        metadata = {**metadata, "size": str(format.size), "resized": resizing.model_dump(exclude_none=True)}
    return encode(resize(image, format.size, format.fit), metadata, format=format.name, quality=format.quality)
