"""Judgements of pictures against prompts."""

import base64
import binascii
import io
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Depends
from PIL import Image

from pairs.judges.opening import OpenedJudge
from pairs.picture_file import upright
from pairs.scores import arithmetic_mean, geometric_mean
from serve.http.errors import InvalidRequest
from serve.http.guards.keys import Caller
from serve.http.pair_schemas import MAX_JUDGED, JudgedImage, JudgementRequest, JudgementResponse
from serve.http.service import ERRORS, Service, caller_of

_MAX_SIDE = 4096  # pixels
_MAX_PIXELS = 4 * _MAX_SIDE**2  # of all pictures of a request, which are in memory together as RGB: 201 MB


def judgements_router(service: Service) -> APIRouter:
    """Route `/v1/judgements`."""
    router = APIRouter(tags=["pairs"])

    @router.post("/v1/judgements", responses=ERRORS)
    async def judgements(
        request: JudgementRequest, caller: Annotated[Caller, Depends(caller_of(service))]
    ) -> JudgementResponse:
        """Judge how well each picture matches each prompt: probabilities of yes, and their means s_a and s_g."""
        if service.judge is None:
            raise InvalidRequest("this server has no judge: start it with --judge", code="unsupported")
        if len(request.images) != len(request.prompts):
            raise InvalidRequest(
                f"images must have a list for each of the {len(request.prompts)} prompts, not {len(request.images)}",
                param="images",
            )
        if sum(map(len, request.images)) > MAX_JUDGED:
            raise InvalidRequest(f"images must be at most {MAX_JUDGED} altogether", param="images")
        service.limiter.check(caller, sum(map(len, request.images)))
        service.limiter.spend(caller, sum(map(len, request.images)))
        return await service.judge.run(lambda opened: judged(opened, request))

    return router


def judged(opened: OpenedJudge, request: JudgementRequest) -> JudgementResponse:
    """Judge all pictures of a request.

    Raises:
        InvalidRequest: a file is not a picture; the message says which. Or the pictures are too large together.
    """
    files = [(place, number, file) for place, row in enumerate(request.images) for number, file in enumerate(row)]
    pictures = open_images({f"images[{place}][{number}]": file for place, number, file in files})
    found = iter(opened.judge([one for one in pictures for _ in request.prompts], request.prompts * len(pictures)))
    images: list[list[JudgedImage]] = [[] for _ in request.images]
    own = []
    for place, _, _ in files:
        yes = [None if one is None else one.score for one in islice(found, len(request.prompts))]
        images[place].append(JudgedImage(yes=yes))
        own.append(yes[place])
    known = [score for score in own if score is not None]
    whole = len(known) == len(own) > 0
    return JudgementResponse(
        judge=opened.name,
        images=images,
        s_a=arithmetic_mean(known) if whole else None,
        s_g=geometric_mean(known) if whole else None,
    )


def open_images(files: dict[str, str]) -> list[Image.Image]:
    """Decode base64 pictures to RGB.

    Args:
        files: base64 content by place in the request.

    Raises:
        InvalidRequest: one is not a PNG, JPEG or WebP picture; or one is too large, or all together.
    """
    opened = {place: _open(file, place) for place, file in files.items()}
    if sum(image.width * image.height for image in opened.values()) > _MAX_PIXELS:
        raise InvalidRequest(f"images must have at most {_MAX_PIXELS} pixels altogether", param="images")
    return [_decoded(image, place) for place, image in opened.items()]


def _open(file: str, place: str) -> Image.Image:
    """Read a base64 picture's header."""
    try:
        content = base64.b64decode(file, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{place} is not base64", param="images") from None
    try:
        image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP"))
    except Image.DecompressionBombError:
        raise InvalidRequest(f"{place} must be at most {_MAX_SIDE} pixels along a side", param="images") from None
    except (OSError, SyntaxError, ValueError):
        raise _not_a_picture(place) from None
    if max(image.size) > _MAX_SIDE:
        raise InvalidRequest(f"{place} must be at most {_MAX_SIDE} pixels along a side", param="images")
    return image


def _decoded(image: Image.Image, place: str) -> Image.Image:
    """All pixels of a picture, as RGB, upright."""
    try:
        return upright(image)
    except (OSError, SyntaxError, ValueError):
        raise _not_a_picture(place) from None


def _not_a_picture(place: str) -> InvalidRequest:
    return InvalidRequest(f"{place} is not a picture in PNG, JPEG or WebP", param="images")
