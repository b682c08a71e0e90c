"""Who may ask: API keys, compared in constant time, and how much each may ask for."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import Busy, InvalidRequest, Unauthorized


@dataclass(frozen=True)
class Caller:
    """Who asks: a key by the start of its digest, which says nothing of the key, or an address where none are asked for."""

    name: str


class Keys:
    """The keys that may be sent; kept as digests only."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._digests = [hashlib.sha256(key.get_secret_value().encode()).digest() for key in keys]

    @property
    def needed(self) -> bool:
        """Whether a key has to be sent."""
        return bool(self._digests)

    def check(self, key: str | None) -> Caller:
        """Whose key it is.

        Raises:
            Unauthorized: nobody's.
        """
        if key is None:
            raise Unauthorized("no API key was sent: send it as Authorization: Bearer KEY", code="missing_api_key")
        digest = hashlib.sha256(key.encode()).digest()
        # every one is compared, so that the time taken does not tell how many came before it
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise Unauthorized("the API key that was sent is not one of this server's", code="invalid_api_key")
        return Caller(digest.hex()[:8])


class KeyGuard:
    """Turns away who has no key, before anything of the body is read; pictures are found by their names alone."""

    def __init__(self, app: ASGIApp, keys: Keys, admin: Keys) -> None:
        self._app = app
        self._keys = keys
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        keys = self._needed(scope) if scope["type"] == "http" else None
        if keys is not None:
            kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            try:
                scope.setdefault("state", {})["caller"] = keys.check(key if kind.lower() == "bearer" else None)
            except Unauthorized as error:
                await JSONResponse(error.body.model_dump(), error.status, headers=error.headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _needed(self, scope: Scope) -> Keys | None:
        path: str = scope["path"]
        if path.startswith("/admin/"):
            return self._admin if self._admin.needed else None
        guarded = path.startswith("/v1/") and not path.startswith("/v1/files/")
        return self._keys if guarded and self._keys.needed else None


class Limiter:
    """How many images each caller may ask for in a moving window; `rate` reads like 60/minute, None is no limit."""

    def __init__(self, rate: str | None) -> None:
        self._item: RateLimitItem | None = parse(rate) if rate else None
        self._strategy = MovingWindowRateLimiter(MemoryStorage())

    def check(self, caller: Caller, images: int) -> None:
        """Whether a caller may ask for so many images now.

        Raises:
            InvalidRequest: never for so many.
            Busy: its share is spent; Retry-After says when a part of it comes back.
        """
        if self._item is None or self._strategy.test(self._item, caller.name, cost=images):
            return
        if images > self._item.amount:
            raise InvalidRequest(
                f"{images} images are more than the {self._item.amount} of this server's rate", param="n"
            )
        reset = self._strategy.get_window_stats(self._item, caller.name).reset_time
        raise Busy(
            f"this key may ask for {self._item.amount} images in {self._item.get_expiry()} seconds",
            code="rate_limit_exceeded",
            retry_after=reset - time.time(),
        )

    def spend(self, caller: Caller, images: int) -> None:
        """Count images that were accepted against a caller's share."""
        if self._item is not None:
            self._strategy.hit(self._item, caller.name, cost=images)
