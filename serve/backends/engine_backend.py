"""A backend whose engine runs elsewhere, behind a link. Imports no torch."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer

from model.errors import PromptError
from model.prompt import encode_prompt
from serve.backends.accepted import AcceptedJobs, check_room
from serve.backends.errors import NotRunning
from serve.backends.generation import Generation
from serve.backends.messages import Cancel, Close, Command, Died, Loaded, Report, Submit
from serve.backends.model_info import ModelInfo
from serve.backends.protocol import BackendState, Stats
from serve.engine.events import Ended, Event, Failed, Finished, Started
from serve.engine.job import Job

logger = logging.getLogger("focusdiff")
_HANGING_SECONDS = 10.0  # for an engine to notice between two steps that its jobs were cancelled


class Link(Protocol):
    """The way to an engine's loop (`serve.backends.loop`)."""

    def send(self, command: Command) -> None:
        """Send a command and return at once; ignored once the loop has ended."""

    def receive(self) -> Report | Died | None:
        """Block until the loop's next message. None after an orderly end; Died is always last."""

    def kill(self) -> None:
        """End the loop at once, whatever it does; `receive` then returns Died."""

    def close(self) -> None:
        """Free what the link holds; the loop has ended."""


@dataclass(eq=False)
class _Job:
    """An accepted job: its generation, and how many of its images have no slot and a slot."""

    generation: Generation
    waiting: int
    running: int = 0

    @classmethod
    def of(cls, generation: Generation) -> "_Job":
        return cls(generation, generation.job.images)

    def count(self, event: Event) -> None:
        if isinstance(event, Started):
            self.waiting -= 1
            self.running += 1
        elif isinstance(event, Finished | Failed):
            self.running -= 1


class EngineBackend:
    """One model, drawn by an engine at the other end of a link. Events arrive on a thread of the backend's own.

    Args:
        loaded: the model.
        link: used by this backend only.
        queue_limit: the most images that may wait for a slot.
        on_death: called once, on that thread, if the loop ends too early.
        on_close: called when the engine has ended in an orderly way.
    """

    def __init__(
        self,
        loaded: Loaded,
        link: Link,
        *,
        queue_limit: int = 256,
        on_death: Callable[[], None] = lambda: None,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        self.loaded = loaded
        self._link = link
        self.queue_limit = queue_limit
        self._on_death = on_death
        self._on_close = on_close
        self._accepted = AcceptedJobs[_Job]()
        self.wait_seconds = 0.0  # estimated wait of a job, in the latest report
        self._closing = False
        self._dead = False
        self._thread = threading.Thread(target=self._listen, name="reports", daemon=True)
        self._thread.start()

    @property
    def info(self) -> ModelInfo:
        return self.loaded.info

    @property
    def held_bytes(self) -> int:
        """Memory of weights, tables and KV cache, in bytes."""
        return self.loaded.held_bytes

    @property
    def state(self) -> BackendState:
        if self._dead:
            return "dead"
        return "draining" if self._closing else "ready"

    @property
    def stats(self) -> Stats:
        """Counts of accepted jobs, as of their latest events."""
        return self._accepted.stats(slots=self.loaded.slots, queue=self.queue_limit)

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the model; raises PromptError if it has none."""
        if self.loaded.tokenizer is None:
            raise PromptError(f"{self.info.name} has no tokenizer; name one with --tokenizer")
        return self.loaded.tokenizer

    def encode(self, prompt: str, *, name: str) -> list[int]:
        """Token ids of a prompt; raises PromptError, which names the field."""
        return encode_prompt(self.tokenizer, prompt, name=name, limit=self.loaded.max_prompt_tokens)

    def submit(self, job: Job) -> Generation:
        """Accept a job: its generation gets every event up to `Ended`.

        Raises:
            QueueFull: too many images wait.
            NotRunning: the engine died, or is draining.
        """
        with self._accepted:
            if self.state != "ready":
                raise NotRunning(f"the engine is {self.state}")
            check_room(
                job.images, waiting=self._accepted.waiting, limit=self.queue_limit, wait_seconds=self.wait_seconds
            )
            number, accepted = self._accepted.add(job, self.info, _Job.of, self._cancel)
            self._link.send(Submit(number, job))
        return accepted.generation

    def abandon(self) -> None:
        """End every accepted job with cause "stopping"; an engine that does not react in time is killed."""
        with self._accepted:
            for number in self._accepted.end("stopping", "the server is stopping"):
                self._link.send(Cancel(number))
        timer = threading.Timer(_HANGING_SECONDS, self._kill_if_hanging)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End the engine at once; accepted jobs end with cause "engine died"."""
        self._link.kill()

    def close(self) -> None:
        """Finish the accepted jobs, then end the engine. Blocks."""
        with self._accepted:
            self._closing = True
            self._link.send(Close())
        self._thread.join()
        self._link.close()
        self._on_close()

    def _cancel(self, number: int) -> None:
        with self._accepted:
            if self._accepted.remove(number) is not None:
                self._link.send(Cancel(number))

    def _kill_if_hanging(self) -> None:
        if self._closing and self._thread.is_alive():
            self._link.kill()

    def _listen(self) -> None:
        try:
            while (message := self._link.receive()) is not None:
                if isinstance(message, Died):
                    self._die(message.reason)
                    return
                self._take(message)
        except Exception as error:  # whoever waits would wait for ever
            logger.exception("a message of the engine cannot be read")
            self._link.kill()
            self._die(f"a message of the engine cannot be read: {type(error).__name__}")

    def _take(self, report: Report) -> None:
        """Count a report and hand its events on."""
        with self._accepted:
            self.wait_seconds = report.wait_seconds
            for number, event in report.events:
                job = self._accepted.get(number)
                if job is None:
                    continue  # cancelled meanwhile
                job.count(event)
                if isinstance(event, Ended):
                    self._accepted.remove(number)
                job.generation.put(event)

    def _die(self, reason: str) -> None:
        logger.error(reason)
        with self._accepted:
            self._dead = True
            self._accepted.end("engine died", reason)
        self._on_death()
