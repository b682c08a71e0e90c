"""Rate limit on images per caller."""

import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from serve.http.errors import Busy, InvalidRequest
from serve.http.guards.keys import Caller


class Limiter:
    """Limit images per caller in a moving window; `rate` is like "60/minute", None means no limit."""

    def __init__(self, rate: str | None) -> None:
        self._item: RateLimitItem | None = parse(rate) if rate else None
        self._strategy = MovingWindowRateLimiter(MemoryStorage())

    def check(self, caller: Caller, images: int) -> None:
        """Raise unless the caller may request `images` images now.

        Raises:
            InvalidRequest: more images than the rate ever allows.
            Busy: the limit is reached; Retry-After says when part of it is free again.
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
        """Count accepted images against the caller's limit."""
        if self._item is not None:
            self._strategy.hit(self._item, caller.name, cost=images)
