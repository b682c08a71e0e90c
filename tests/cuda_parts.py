"""Parts of `focusdiff-bench cuda` that do not end well, and one that does."""

import os
import time
from collections.abc import Iterator

from bench.cuda.result import Result


def end(bench: object) -> Iterator[Result]:
    yield Result("ends", "before", 1.0)
    os._exit(7)


def fail(bench: object) -> Iterator[Result]:
    raise RuntimeError("no such kernel\nwith details")


def sleep(bench: object) -> Iterator[Result]:
    time.sleep(3600)
    return iter(())


def measure(bench: object) -> Iterator[Result]:
    yield Result("last", "done", 2.0)
