"""API keys, compared in constant time."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.http.errors import Unauthorized, error_answer


@dataclass(frozen=True)
class Caller:
    """Sender of a request: start of the key's digest, or the client's address if no key is needed."""

    name: str


class Keys:
    """Accepted keys, stored only as SHA-256 digests."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._digests = [hashlib.sha256(key.get_secret_value().encode()).digest() for key in keys]

    @property
    def needed(self) -> bool:
        """Whether requests need a key."""
        return bool(self._digests)

    def check(self, key: str | None) -> Caller:
        """Return the caller of an accepted key.

        Raises:
            Unauthorized: no key, or an unknown one.
        """
        if key is None:
            raise Unauthorized("no API key was sent: send it as Authorization: Bearer KEY", code="missing_api_key")
        digest = hashlib.sha256(key.encode()).digest()
        # compare all keys, so that the time taken does not reveal which one matched
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise Unauthorized("unknown API key", code="invalid_api_key")
        return Caller(digest.hex()[:8])


class KeyGuard:
    """Middleware that refuses requests without a valid key before reading the body. Links to pictures need none."""

    def __init__(self, app: ASGIApp, keys: Keys, admin: Keys) -> None:
        self._app = app
        self._keys = keys
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = self._needed(scope) if scope["type"] == "http" else None
        if keys is not None:
            try:
                scope.setdefault("state", {})["caller"] = keys.check(_key(Headers(scope=scope)))
            except Unauthorized as error:
                await error_answer(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _needed(self, scope: Scope) -> Keys | None:
        path: str = scope["path"]
        if path.startswith("/admin/"):
            return self._admin if self._admin.needed else None
        guarded = path.startswith(("/v1/", "/sdapi/")) and not path.startswith("/v1/files/")
        return self._keys if guarded and self._keys.needed else None


def _key(headers: Headers) -> str | None:
    """Key of a request: a bearer token, the password of basic authentication, or Azure's header."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value
    if kind.lower() == "basic":
        with suppress(binascii.Error, UnicodeDecodeError):
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
    return headers.get("api-key")
