"""Measure the seconds spent in chosen functions."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


class Stopwatch:
    """Seconds by label; time in nested timed functions counts only for the inner one."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def timing(self, **labelled: tuple[object, str]) -> Iterator["Stopwatch"]:
        """Time functions inside the context, given as label=(object or module, attribute name)."""
        with ExitStack() as stack:
            for label, (owner, name) in labelled.items():
                stack.enter_context(self._time(owner, name, label))
            yield self

    @contextmanager
    def _time(self, owner: object, name: str, label: str) -> Iterator[None]:
        original = getattr(owner, name)
        own = name in vars(owner)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            self._inner.append(0.0)
            try:
                return original(*arguments, **keywords)
            finally:
                whole = time.perf_counter() - started
                self.seconds[label] += whole - self._inner.pop()
                self._inner[-1] += whole

        setattr(owner, name, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)
