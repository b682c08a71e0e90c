"""The Backend protocol: what HTTP needs of anything that draws. Imports no torch."""

from dataclasses import dataclass
from typing import Literal, Protocol

from serve.backends.generation import Generation
from serve.backends.model_info import ModelInfo
from serve.engine.job import Job

BackendState = Literal["ready", "unreachable", "draining", "dead"]


@dataclass(frozen=True)
class Stats:
    """Images being drawn and images waiting for a slot; how many guided images can be drawn at once, and may wait."""

    running: int
    waiting: int
    slots: int
    queue: int


class Backend(Protocol):
    """Draws jobs with one model."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def state(self) -> BackendState:
        """Jobs are accepted while ready. A draining backend finishes those it has.

        Unreachable: what draws is elsewhere, and may come back. Dead: this process must be started again.
        """

    @property
    def stats(self) -> Stats: ...

    def encode(self, prompt: str, *, name: str) -> list[int]:
        """Token ids of a prompt; raises PromptError, which names the field."""

    def submit(self, job: Job) -> Generation:
        """Accept a job; called on the event loop, and returns at once.

        Raises:
            QueueFull: too many images wait.
            NotRunning: no more jobs are accepted.
        """

    def abandon(self) -> None:
        """End every accepted job with cause "stopping"."""

    def kill(self) -> None:
        """End the engine at once; accepted jobs end with cause "engine died"."""

    def close(self) -> None:
        """Finish the accepted jobs, then free the device. Blocks."""
