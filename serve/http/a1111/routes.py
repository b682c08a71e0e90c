"""Routes of `/sdapi/v1`: pictures from prompts, progress, and what front ends ask for before they draw."""

import asyncio
import logging
import math
import secrets
import time
from typing import Annotated, Any

import psutil
from fastapi import APIRouter, Depends, Request

from pairs.picture_file import encode
from serve.backends.errors import UnknownModel
from serve.backends.protocol import Backend
from serve.http.a1111.drawings import Drawing, Drawings
from serve.http.a1111.info import SAMPLER, info
from serve.http.a1111.schemas import MAX_SEED, Checkpoint, Options, Progress, State, Txt2Img, Txt2ImgAnswer, WebUiError
from serve.http.answers import as_base64, metadata, picture_file
from serve.http.cancellation import cancel_on_disconnect
from serve.http.errors import InvalidRequest
from serve.http.generations import counted
from serve.http.guards.keys import Caller
from serve.http.planning import PictureFormat, job_of, picture_format, seeds_of
from serve.http.schemas import PictureRequest
from serve.http.service import ERRORS, Service, caller_of
from serve.settings.engine import MAX_IMAGES
from serve.upscaling.upscaler import Enlarged

logger = logging.getLogger("focusdiff")
# For OpenAPI: error answers of the routes.
_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": WebUiError} for status in ERRORS}
_PREVIEWS = 4  # of each picture, if the engine has time for them


def a1111_router(service: Service) -> APIRouter:
    """Routes of `/sdapi/v1`, behind the same keys, limits, queue and metrics as the others."""
    router = APIRouter(prefix="/sdapi/v1", tags=["a1111"], responses=_ERRORS)
    drawings = Drawings()
    chosen: dict[str, str] = {}  # model by caller, set by POST options
    allowed = Depends(caller_of(service))

    def backend_of(caller: Caller, name: str | None = None) -> Backend:
        """The named model, else the one that the caller has chosen, else the first: as the web UI does."""
        for wanted in (name, chosen.get(caller.name)):
            try:
                if wanted:
                    return service.registry.find(wanted).backend
            except UnknownModel:
                continue
        return service.find(None).backend

    @router.post("/txt2img")
    async def txt2img(request: Txt2Img, connection: Request, caller: Annotated[Caller, allowed]) -> Txt2ImgAnswer:
        """Draw pictures of a prompt."""
        if request.images > MAX_IMAGES:
            raise InvalidRequest(
                f"batch_size × n_iter must be at most {MAX_IMAGES}, not {request.images}", param="batch_size"
            )
        backend = backend_of(caller, request.checkpoint)
        plain = _plain(request, backend)
        format = _format(request, plain, backend, service)
        job = job_of(plain, backend, {"prompt": request.prompt}, seeds_of(plain), deadline=service.deadline)
        (generation,) = service.submit(caller, [(backend, job)])
        shown = {"prompt": request.prompt} if service.log_prompts else {}
        logger.info("%d images by %s", request.images, backend.info.name, extra={"caller": caller.name, **shown})
        drawing = Drawing(request.images, math.isqrt(backend.info.image_tokens))

        async def answer() -> Txt2ImgAnswer:
            await drawing.follow(counted(generation, service.metrics))
            images = []
            if request.send_images:
                for index, picture in drawing.pictures.items():
                    enlarging = service.enlarge(picture, format, job)
                    enlarged = await drawing.until_interrupted(enlarging) or Enlarged(picture)
                    settings = metadata(generation, index, plain, request.prompt)
                    file = await picture_file(enlarged.picture, format, settings, filter=enlarged.filter)
                    images.append(as_base64(file))
            # without unknown fields: some clients send their password along
            known = request.model_dump(include=set(Txt2Img.model_fields))
            about = info(request, generation, format.size, list(drawing.pictures))
            return Txt2ImgAnswer(images=images, parameters=known, info=about)

        async with generation:
            with drawings.running(caller.name, drawing):
                return await cancel_on_disconnect(connection, answer())

    @router.post("/img2img", status_code=400)
    async def img2img(_: Annotated[Caller, allowed]) -> None:
        """Not supported: these models draw from prompts only."""
        raise InvalidRequest(
            "these models draw pictures from a prompt and cannot change one: use txt2img", code="unsupported"
        )

    @router.get("/progress")
    async def progress(caller: Annotated[Caller, allowed], skip_current_image: bool = False) -> Progress:
        """Tell how far the caller's running request is."""
        drawing = drawings.latest(caller.name)
        if drawing is None:
            return Progress()
        preview = None
        if drawing.preview is not None and not skip_current_image:
            preview = as_base64(await asyncio.to_thread(encode, drawing.preview, {}))
        return _progress(drawing, preview)

    @router.post("/interrupt")
    async def interrupt(caller: Annotated[Caller, allowed]) -> dict[str, Any]:
        """End the caller's running requests with what is drawn."""
        drawings.interrupt(caller.name)
        return {}

    @router.post("/skip")
    async def skip(caller: Annotated[Caller, allowed]) -> None:
        """Same as interrupt."""
        drawings.interrupt(caller.name)

    @router.get("/options")
    async def options(caller: Annotated[Caller, allowed]) -> dict[str, Any]:
        """The settings that front ends read: the model in use."""
        name = backend_of(caller).info.name
        return {"sd_model_checkpoint": name, "samples_format": "png", "sd_vae": "None", "CLIP_stop_at_last_layers": 1}

    @router.post("/options")
    async def choose(settings: Options, caller: Annotated[Caller, allowed]) -> None:
        """Choose the caller's model by sd_model_checkpoint; other settings have no effect."""
        if name := settings.sd_model_checkpoint:
            chosen[caller.name] = service.find(name, param="sd_model_checkpoint").backend.info.name

    @router.get("/sd-models")
    async def models(_: Annotated[Caller, allowed]) -> list[Checkpoint]:
        """List the served models."""
        return [Checkpoint(title=name, model_name=name, filename=name) for name in service.registry.served]

    @router.get("/samplers")
    async def samplers(_: Annotated[Caller, allowed]) -> list[dict[str, Any]]:
        """The only way of drawing."""
        return [{"name": SAMPLER, "aliases": [], "options": {}}]

    @router.get("/schedulers")
    async def schedulers(_: Annotated[Caller, allowed]) -> list[dict[str, Any]]:
        """No schedule of noise, under the name that means none."""
        return [
            {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}
        ]

    @router.get("/upscalers")
    async def upscalers(_: Annotated[Caller, allowed]) -> list[dict[str, Any]]:
        """Ways of enlarging pictures; of the last two, the server takes the last."""
        known: list[tuple[str, str | None, float]] = [("None", None, 4.0), ("Lanczos", None, 4.0)]
        if service.upscaler is not None and (network := service.upscaler.network) is not None:
            known.append((service.upscaler.name, network.architecture, float(network.scale)))
        return [
            {"name": name, "model_name": model, "model_path": None, "model_url": None, "scale": scale}
            for name, model, scale in known
        ]

    @router.get("/latent-upscale-modes")
    async def latent_upscale_modes(_: Annotated[Caller, allowed]) -> list[dict[str, str]]:
        """The single entry "None": there are no latent upscalers."""
        return [{"name": "None"}]

    @router.get("/memory")
    async def memory(_: Annotated[Caller, allowed]) -> dict[str, Any]:
        """The machine's memory in bytes."""
        ram = psutil.virtual_memory()
        return {
            "ram": {"free": ram.available, "used": ram.total - ram.available, "total": ram.total},
            "cuda": {"error": "the engines have processes of their own"},
        }

    for path in ("sd-vae", "sd-modules", "prompt-styles", "hypernetworks", "face-restorers", "loras"):
        router.add_api_route(f"/{path}", _nothing, dependencies=[allowed])
    router.add_api_route("/refresh-checkpoints", _done, methods=["POST"], dependencies=[allowed])
    return router


async def _nothing() -> list[str]:
    """Nothing of this kind is here."""
    return []


async def _done() -> None:
    """Nothing to do: models are listed as they are loaded."""


def _plain(request: Txt2Img, backend: Backend) -> PictureRequest:
    """The request in the terms of our own API."""
    rows = math.isqrt(backend.info.image_tokens)
    return PictureRequest(
        n=request.images,
        seed=secrets.randbelow(MAX_SEED + 1) if request.seed == -1 else request.seed,
        negative_prompt=request.negative_prompt.strip() or None,
        guidance_scale=request.guidance_scale,
        stream=True,
        partial_images=min(_PREVIEWS, rows - 1),
    )


def _format(request: Txt2Img, plain: PictureRequest, backend: Backend, service: Service) -> PictureFormat:
    own = backend.info.image_size
    size = f"{request.width or own}x{request.height or own}"
    return picture_format(plain, backend, size=size, fit=service.fit, strict=service.strict)


def _progress(drawing: Drawing, preview: str | None) -> Progress:
    state = State(
        interrupted=drawing.interrupted.is_set(),
        job="txt2img",
        job_count=drawing.images,
        job_timestamp=time.strftime("%Y%m%d%H%M%S", time.localtime(drawing.started)),
        job_no=drawing.finished,
        sampling_step=drawing.done_rows % drawing.rows,
        sampling_steps=drawing.rows,
    )
    # above 0 from the start: 0 means that nothing runs
    share = max(0.01, drawing.share)
    return Progress(progress=share, eta_relative=drawing.seconds_left, state=state, current_image=preview)
