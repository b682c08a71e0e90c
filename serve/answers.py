"""Finished pictures as answers: encoded, enlarged where asked for, with the settings that give them again."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

from PIL import Image

from serve.drawing import Drawing
from serve.events import Finished
from serve.image import encode
from serve.planning import Look
from serve.schemas import Usage


async def picture(image: Image.Image, look: Look, metadata: dict[str, Any]) -> bytes:
    """A picture's file; encoded in a thread, since others are being served."""
    return await asyncio.to_thread(_encode, image, look, metadata)


async def finished_picture(drawing: Drawing, event: Finished, look: Look) -> bytes:
    """The file of a picture that is complete."""
    return await picture(event.picture, look, metadata(drawing, drawing.job.seeds[event.index]))


async def finished_pictures(drawing: Drawing, events: Sequence[Finished], look: Look) -> list[bytes]:
    """The files of a job's pictures."""
    return [await finished_picture(drawing, event, look) for event in events]


def metadata(drawing: Drawing, seed: int) -> dict[str, Any]:
    """What a picture's file says of how it was made."""
    negative = {} if drawing.negative_prompt is None else {"negative_prompt": drawing.negative_prompt}
    weights = {"weights": "int8"} if drawing.info.int8 else {}
    params = drawing.job.params.as_dict()
    return {"model": drawing.info.name, "prompt": drawing.prompt, "seed": seed, **params, **weights, **negative}


def usage(drawing: Drawing, images: int) -> Usage:
    """Tokens read and drawn for so many pictures of a job."""
    return Usage.of(read=len(drawing.job.prompt), drawn=drawing.info.image_tokens * images)


def as_base64(content: bytes) -> str:
    """As JSON carries it."""
    return base64.b64encode(content).decode()


def _encode(image: Image.Image, look: Look, metadata: dict[str, Any]) -> bytes:
    if image.width != look.size:
        image = image.resize((look.size, look.size), Image.Resampling.LANCZOS)
    return encode(image, metadata, format=look.format, quality=look.quality)
