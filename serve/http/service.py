"""State and helpers shared by all routes."""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from PIL import Image
from pydantic import SecretStr

from serve.backends.errors import NoModel, NotRunning, QueueFull, UnknownModel
from serve.backends.generation import Generation
from serve.backends.protocol import Backend
from serve.backends.registry import Registry, Served
from serve.engine.job import Job
from serve.http.errors import ApiError, Busy, InvalidRequest, Unavailable
from serve.http.guards.keys import Caller, Keys
from serve.http.guards.rates import Limiter
from serve.http.judging import ServedJudge
from serve.http.metrics import Metrics
from serve.http.planning import PictureFormat
from serve.http.schemas import ErrorResponse
from serve.http.sizes import Fit
from serve.http.store import Store
from serve.upscaling.upscaler import Enlarged, Upscaler

logger = logging.getLogger("focusdiff")

# For OpenAPI: error answers of the routes.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 404, 409, 413, 429, 500, 503, 504)
}
_EVENT = {
    "type": "object",
    "description": "one server-sent event, with stream: true",
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON"}},
}
# For OpenAPI: answer of streaming routes with stream: true.
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}

_READING_SECONDS = 60.0  # to read the rest of a stream after the request's time limit
_OPENAI_NAMES = ("gpt-image-", "chatgpt-image-", "dall-e-")  # which some clients cannot be told to change
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")  # fit for a header and a log line
_MOST_NAMED = 20  # ignored fields


@dataclass(frozen=True)
class Service:
    """Everything the routes use; built once by `serve.http.app.create_app`.

    request_seconds: time limit of a request.
    fit: how other shapes than squares are filled.
    strict: whether unknown fields, other sizes and OpenAI's model names are refused.
    watch: folder of the training run that is followed.
    """

    registry: Registry
    metrics: Metrics
    keys: Keys
    admin: Keys
    limiter: Limiter
    store: Store
    judge: ServedJudge | None = None
    upscaler: Upscaler | None = None
    request_seconds: float = 600.0
    fit: Fit = "pad"
    strict: bool = False
    public_url: str | None = None
    log_prompts: bool = False
    watch: Path | None = None

    @property
    def deadline(self) -> float:
        """Deadline of a request that arrives now, in seconds of the monotonic clock."""
        return time.monotonic() + self.request_seconds

    @property
    def stream_seconds(self) -> float:
        """Seconds after which a stream ends even if the client has not read it."""
        return self.request_seconds + _READING_SECONDS

    def find(self, name: str | None, *, param: str = "model") -> Served:
        """Find a model by name or alias. None, an empty name and, unless strict, OpenAI's names mean the first model.

        Args:
            name: model name from the request.
            param: request field that holds the name.

        Raises:
            InvalidRequest: no such model; the message lists the known names.
            Unavailable: no model is loaded, or the server is stopping.
        """
        try:
            return self.registry.find(name or None)
        except UnknownModel as error:
            if name and name.startswith(_OPENAI_NAMES) and not self.strict:
                return self.registry.find(None)
            # 400, as OpenAI's image route: to some clients 404 means that the server draws no pictures at all
            raise InvalidRequest(str(error), param=param, code="model_not_found") from None
        except NoModel as error:
            raise Unavailable(str(error)) from None

    def ignore(self, request: Request, names: Sequence[str]) -> None:
        """Accept fields without effect: name them in the log and in the header x-ignored-fields.

        Raises:
            InvalidRequest: the server is strict.
        """
        if not names:
            return
        if self.strict:
            raise InvalidRequest(f"{names[0]}: no such field", param=names[0], code="unknown_parameter")
        named = [name if _PLAIN.fullmatch(name) else "?" for name in names[:_MOST_NAMED]]
        request.state.ignored_fields = ", ".join(named)
        logger.info("ignored fields: %s", request.state.ignored_fields)

    def submit(self, caller: Caller, jobs: Sequence[tuple[Backend, Job]]) -> list[Generation]:
        """Submit jobs, all or none.

        Raises:
            InvalidRequest: more images than the rate limit ever allows.
            Busy: a queue is full, or the caller's rate limit is reached.
            Unavailable: an engine accepts no jobs.
        """
        images = sum(job.images for _, job in jobs)
        self.limiter.check(caller, images)
        accepted: list[Generation] = []
        try:
            for backend, job in jobs:
                accepted.append(self._submit(backend, job))
        except ApiError:
            for generation in accepted:
                generation.leave()
            raise
        self.limiter.spend(caller, images)
        for backend, job in jobs:
            self.metrics.accept(backend.info.name, job.images)
        return accepted

    async def enlarge(self, picture: Image.Image, format: PictureFormat, job: Job) -> Enlarged:
        """Enlarge a finished picture of a job by the upscaler, if there is one and a larger picture is wanted."""
        if self.upscaler is None or format.side <= picture.width:
            return Enlarged(picture)
        with self.metrics.enlarging():
            enlarged = await self.upscaler.enlarge(picture, format.side, seconds=job.seconds_left)
        self.metrics.enlarge(enlarged.seconds)
        return enlarged

    def _submit(self, backend: Backend, job: Job) -> Generation:
        try:
            return backend.submit(job)
        except QueueFull as full:
            self.metrics.refuse(backend.info.name)
            raise Busy(f"{full}; try again later", code="queue_full", retry_after=full.wait_seconds) from None
        except NotRunning as error:
            raise Unavailable(str(error)) from None

    def link(self, request: Request, name: str) -> str:
        """URL of a stored picture."""
        base = self.public_url or str(request.base_url)
        return f"{base.rstrip('/')}/v1/files/{name}"


def keys_of(secret: SecretStr | None) -> Keys:
    """Keys with one accepted key, or none."""
    return Keys([secret] if secret is not None else [])


def caller_of(service: Service) -> Callable[..., Awaitable[Caller]]:
    """FastAPI dependency that returns the caller; `KeyGuard` has already checked the key."""

    async def caller(request: Request) -> Caller:
        known = getattr(request.state, "caller", None)
        return known or Caller(request.client.host if request.client else "unknown")

    async def with_key(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
    ) -> Caller:
        return await caller(request)

    return with_key if service.keys.needed else caller  # OpenAPI shows a key only if one is needed
