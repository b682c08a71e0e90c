"""What all routes share: the models and everything that guards, counts and keeps."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from pairs.judge import Judge
from serve.auth import Caller, Keys, Limiter
from serve.metrics import Metrics
from serve.models import Models
from serve.schemas import ErrorResponse
from serve.store import Store

# What any route that makes pictures may answer, for OpenAPI.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 404, 409, 413, 429, 500, 503, 504)
}
_EVENT = {
    "type": "object",
    "description": "one server-sent event, with stream: true",
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON"}},
}
# What may come in place of JSON from routes that stream.
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}


_READING_SECONDS = 60.0  # for what is still on its way when a request's time is over


@dataclass(frozen=True)
class Service:
    """Built once, by `serve.app.create_app`.

    `judge_name` is what answers call the judge; `request_seconds` bounds every request.
    """

    models: Models
    metrics: Metrics
    keys: Keys
    admin: Keys
    limiter: Limiter
    store: Store
    judge: Judge | None = None
    judge_name: str = ""
    request_seconds: float = 600.0
    upscale: bool = False
    public_url: str | None = None
    log_prompts: bool = False

    @property
    def deadline(self) -> float:
        """Of a request that comes now, on the monotonic clock."""
        return time.monotonic() + self.request_seconds

    @property
    def stream_seconds(self) -> float:
        """After which a stream ends whose reader does not read."""
        return self.request_seconds + _READING_SECONDS

    def link(self, request: Request, name: str) -> str:
        """Where a kept picture is found."""
        base = self.public_url or str(request.base_url)
        return f"{base.rstrip('/')}/v1/files/{name}"


def keys_of(secret: SecretStr | None) -> Keys:
    """One key, or none at all."""
    return Keys([secret] if secret is not None else [])


def caller_of(service: Service) -> Callable[..., Awaitable[Caller]]:
    """The dependency of a route that only those may use who have a key; `KeyGuard` has looked at it before."""

    async def caller(request: Request) -> Caller:
        known = getattr(request.state, "caller", None)
        return known or Caller(request.client.host if request.client else "unknown")

    async def with_key(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
    ) -> Caller:
        return await caller(request)

    return with_key if service.keys.needed else caller  # OpenAPI asks for a key where the server does
