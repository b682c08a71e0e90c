"""The thread that owns the engine; everybody else talks to it through a queue."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serve.engine import Engine
from serve.events import Event, Failed, Finished, Queued, Started
from serve.request import Job, Request

logger = logging.getLogger("focusdiff")


class QueueFull(Exception):
    """Too many images wait already; `waiting` says how many, `wait_seconds` after how long there will be room."""

    def __init__(self, waiting: int, wait_seconds: float) -> None:
        super().__init__(f"{waiting} images are waiting already")
        self.waiting = waiting
        self.wait_seconds = wait_seconds


class NotRunning(Exception):
    """The engine has failed or is stopping, and takes no more jobs."""


State = Literal["ready", "draining", "dead"]


@dataclass(eq=False)
class Ticket:
    """A job and who listens to it; `request` is the engine's side, once it has it."""

    job: Job
    listener: Callable[[Event], None]
    unstarted: int  # images without a slot
    unended: int  # images that have neither come nor failed
    running: int = 0  # images with a slot
    request: Request | None = None


class Worker:
    """Runs an engine in a thread of its own.

    Listeners are called on that thread, in order, and must return at once.

    Args:
        engine: nobody else may touch it from now on.
        queue_limit: the most images that may wait for a slot.
        on_death: called once, on the thread, when a step has failed.
    """

    def __init__(self, engine: Engine, *, queue_limit: int, on_death: Callable[[], None]) -> None:
        self._engine = engine
        self._queue_limit = queue_limit
        self._on_death = on_death
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._tickets: dict[Request, Ticket] = {}
        self._lock = threading.Lock()
        self._waiting = 0
        self._running = 0
        self._wait_seconds = 0.0  # as of the last time that an image came or began
        self._closing = False
        self._death: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """Only what is ready takes jobs; what is draining finishes those that it has."""
        if self._death is not None:
            return "dead"
        return "draining" if self._closing else "ready"

    @property
    def load(self) -> tuple[int, int]:
        """Images that are being drawn, and images without a slot."""
        with self._lock:
            return self._running, self._waiting

    def submit(self, job: Job, listener: Callable[[Event], None]) -> Ticket:
        """Accept a job: from here on its listener hears of every image until each has come or failed.

        Raises:
            QueueFull: too many images wait.
            NotRunning: a step has failed, or the worker is closing.
        """
        ticket = Ticket(job, listener, unstarted=len(job.seeds), unended=len(job.seeds))
        with self._lock:
            if self.state != "ready":
                raise NotRunning(f"the engine is {self.state}")
            if self._waiting + ticket.unstarted > self._queue_limit:
                # the queue empties evenly: after this share of it has gone there is room
                excess = self._waiting + ticket.unstarted - self._queue_limit
                raise QueueFull(self._waiting, self._wait_seconds * min(1.0, excess / max(1, self._waiting)))
            self._waiting += ticket.unstarted
            self._commands.put(lambda: self._accept(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody wants it any more: its slots are free at the next step, and its listener hears nothing more."""
        self._commands.put(lambda: self._cancel(ticket))

    def give_up(self) -> None:
        """Fail everything that was accepted and has not come."""
        self._commands.put(self._give_up)

    def close(self) -> None:
        """Finish what was accepted, then end the thread."""
        with self._lock:
            self._closing = True
        self._commands.put(lambda: None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._obey():
                events = self._engine.step()
                for request, event in events:
                    self._tell(request, event)
                if events:
                    self._wait_seconds = self._engine.wait_seconds
        except BaseException as error:
            logger.exception("the engine failed")
            self._die(error)

    def _obey(self) -> bool:
        """Take what was asked for since the last step; sleeps while there is nothing to do. False at the end."""
        while True:
            try:
                self._commands.get(block=self._engine.idle and not self._closing)()
            except queue.Empty:
                return not (self._closing and self._engine.idle)
            if not self._engine.idle and self._commands.empty():
                return True

    def _accept(self, ticket: Ticket) -> None:
        if self._death is not None:
            ticket.listener(self._last_words(self._death))
            return
        queued = Queued(self._engine.scheduler.waiting_images, self._engine.wait_seconds)
        ticket.request = self._engine.submit(ticket.job)
        self._tickets[ticket.request] = ticket
        self._wait_seconds = self._engine.wait_seconds
        ticket.listener(queued)

    def _cancel(self, ticket: Ticket) -> None:
        if ticket.request in self._tickets:
            if self._death is None:
                self._engine.cancel(ticket.request)
            self._forget(ticket.request)

    def _give_up(self) -> None:
        if self._death is not None:
            return  # everyone will hear of that
        for request, ticket in list(self._tickets.items()):
            self._engine.cancel(request)
            self._forget(request)
            ticket.listener(Failed(None, "stopping", "the server is stopping"))

    def _tell(self, request: Request, event: Event) -> None:
        ticket = self._tickets[request]
        if isinstance(event, Started):
            ticket.unstarted -= 1
            ticket.running += 1
            with self._lock:
                self._waiting -= 1
                self._running += 1
        elif isinstance(event, Finished | Failed):
            whole = isinstance(event, Failed) and event.index is None
            ticket.unended = 0 if whole else ticket.unended - 1
            if ticket.unended == 0:
                self._forget(request)
            else:
                ticket.running -= 1
                with self._lock:
                    self._running -= 1
        ticket.listener(event)

    def _forget(self, request: Request) -> None:
        ticket = self._tickets.pop(request)
        with self._lock:
            self._waiting -= ticket.unstarted
            self._running -= ticket.running
        ticket.unstarted = ticket.running = 0

    def _die(self, error: BaseException) -> None:
        """Fail everyone who waits, in the queue of commands too, and say so; the engine is not touched again."""
        with self._lock:
            self._death = error
        try:
            while not self._commands.empty():
                self._commands.get_nowait()()
            for request, ticket in list(self._tickets.items()):
                self._forget(request)
                ticket.listener(self._last_words(error))
        finally:
            self._on_death()

    @staticmethod
    def _last_words(error: BaseException) -> Failed:
        return Failed(None, "engine died", f"the engine failed: {type(error).__name__}")
