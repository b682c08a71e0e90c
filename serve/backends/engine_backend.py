"""A backend whose engine runs elsewhere, behind a link. Imports no torch."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from model.errors import PromptError
from model.prompt import encode_prompt
from serve.backends.errors import NotRunning, QueueFull
from serve.backends.generation import Generation
from serve.backends.messages import Cancel, Close, Command, Died, Loaded, Report, Submit
from serve.backends.model_info import ModelInfo
from serve.backends.protocol import BackendState, Stats
from serve.engine.events import Cause, Ended, Event, Failed, Finished, Started
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
class _Accepted:
    """An accepted job: its generation, and how many of its images have no slot and a slot."""

    generation: Generation
    waiting: int
    running: int = 0

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
        self._numbers = count()
        self._lock = threading.Lock()
        self._accepted: dict[int, _Accepted] = {}
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
        with self._lock:
            running = sum(job.running for job in self._accepted.values())
            return Stats(running, self._waiting, self.loaded.slots, self.queue_limit)

    @property
    def _waiting(self) -> int:
        return sum(job.waiting for job in self._accepted.values())

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
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
        with self._lock:
            if self.state != "ready":
                raise NotRunning(f"the engine is {self.state}")
            waiting = self._waiting
            excess = waiting + job.images - self.queue_limit
            if excess > 0:
                # the queue empties evenly: there is room when this share of it is gone
                raise QueueFull(waiting, self.wait_seconds * min(1.0, excess / max(1, waiting)))
            number = next(self._numbers)
            generation = Generation(job, self.info, cancel=lambda: self._cancel(number))
            self._accepted[number] = _Accepted(generation, job.images)
            self._link.send(Submit(number, job))
        return generation

    def abandon(self) -> None:
        """End every accepted job with cause "stopping"; an engine that does not react in time is killed."""
        self._end_all("stopping", "the server is stopping")
        timer = threading.Timer(_HANGING_SECONDS, self._kill_if_hanging)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End the engine at once; accepted jobs end with cause "engine died"."""
        self._link.kill()

    def close(self) -> None:
        """Finish the accepted jobs, then end the engine. Blocks."""
        with self._lock:
            self._closing = True
            self._link.send(Close())
        self._thread.join()
        self._link.close()
        self._on_close()

    def _cancel(self, number: int) -> None:
        with self._lock:
            if self._accepted.pop(number, None) is not None:
                self._link.send(Cancel(number))

    def _end_all(self, cause: Cause, reason: str) -> None:
        with self._lock:
            ended = list(self._accepted.values())
            for number in self._accepted:
                self._link.send(Cancel(number))
            self._accepted.clear()
        for job in ended:
            job.generation.put(Ended(cause, reason))

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
        with self._lock:
            self.wait_seconds = report.wait_seconds
            for number, event in report.events:
                job = self._accepted.get(number)
                if job is None:
                    continue  # cancelled meanwhile
                job.count(event)
                if isinstance(event, Ended):
                    del self._accepted[number]
                job.generation.put(event)

    def _die(self, reason: str) -> None:
        logger.error(reason)
        with self._lock:
            self._dead = True
        try:
            self._end_all("engine died", reason)
        finally:
            self._on_death()
