"""Errors of backends and of the registry; `serve.http` turns each into an answer.

BackendError
├── QueueFull      too many images wait; says for how long
├── NotRunning     no jobs are accepted: the engine died, or is draining
├── UnknownModel   no model of this name; lists those there are
├── NoModel        nothing is served: models are loading, or the server is stopping
├── NameTaken      a model of this name is loaded already
└── LastModel      the only model cannot be unloaded
"""

from collections.abc import Iterable


class BackendError(Exception):
    """Base of everything here; the message is one line for people."""


class QueueFull(BackendError):
    """Too many images wait; there will be room in about `wait_seconds`."""

    def __init__(self, waiting: int, wait_seconds: float) -> None:
        super().__init__(f"{waiting} images are waiting already")
        self.waiting = waiting
        self.wait_seconds = wait_seconds


class NotRunning(BackendError):
    """The engine died or is draining."""


class UnknownModel(BackendError):
    """No model of this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no model {name!r} here; known: {', '.join(known)}")


class NoModel(BackendError):
    """Nothing is served now."""


class NameTaken(BackendError):
    """A model of this name is loaded already."""


class LastModel(BackendError):
    """The only model cannot be unloaded."""
