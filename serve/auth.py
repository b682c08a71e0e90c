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

from serve.errors import Busy, Unauthorized


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


class Limiter:
    """How many images each caller may ask for in a moving window; `rate` reads like 60/minute, None is no limit."""

    def __init__(self, rate: str | None) -> None:
        self._item: RateLimitItem | None = parse(rate) if rate else None
        self._strategy = MovingWindowRateLimiter(MemoryStorage())

    def take(self, caller: Caller, images: int) -> None:
        """Count images against a caller's share.

        Raises:
            Busy: it is spent; Retry-After says when a part of it comes back.
        """
        if self._item is None or self._strategy.hit(self._item, caller.name, cost=images):
            return
        reset = self._strategy.get_window_stats(self._item, caller.name).reset_time
        raise Busy(
            f"this key may ask for {self._item.amount} images in {self._item.get_expiry()} seconds",
            code="rate_limit_exceeded",
            retry_after=reset - time.time(),
        )
