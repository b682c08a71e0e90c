"""Report each check as it succeeds; the first failure ends the script."""

import time
from collections.abc import Callable
from typing import NoReturn


def stop(what: str) -> NoReturn:
    """End the script; what it started is ended on the way out."""
    raise SystemExit(f"FAILED: {what}")


def check(held: object, what: str) -> None:
    """Report a thing that holds, or end the script."""
    if not held:
        stop(what)
    print(f"proven: {what}", flush=True)


def wait_until(held: Callable[[], bool], what: str, *, seconds: float = 300) -> None:
    """Wait for a thing to hold, report it, or end the script."""
    end = time.monotonic() + seconds
    while not (holds := held()) and time.monotonic() < end:
        time.sleep(0.05)
    check(holds, what)


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started
