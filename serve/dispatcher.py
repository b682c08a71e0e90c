"""Takes jobs for an engine, counts them, and hands on what the engine's loop tells of them."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Literal, Protocol

from serve.events import Event, Failed, Finished, Started
from serve.messages import Cancel, Close, Command, Died, Report, Submit
from serve.request import Job

logger = logging.getLogger("focusdiff")
_HANGING_SECONDS = 10.0  # for an engine to notice between two steps that nothing is wanted any more


class QueueFull(Exception):
    """Too many images wait already; `waiting` says how many, `wait_seconds` after how long there will be room."""

    def __init__(self, waiting: int, wait_seconds: float) -> None:
        super().__init__(f"{waiting} images are waiting already")
        self.waiting = waiting
        self.wait_seconds = wait_seconds


class NotRunning(Exception):
    """The engine has failed or is stopping, and takes no more jobs."""


State = Literal["ready", "draining", "dead"]


class Link(Protocol):
    """The way to an engine's loop (`serve.engine_loop`)."""

    def send(self, command: Command) -> None:
        """Hand it a command, in order, and return at once; where it has ended, nothing happens."""

    def receive(self) -> Report | Died | None:
        """The next that it tells; blocks. None once it has ended as it was told to; Died is the last as well."""

    def kill(self) -> None:
        """End it at once, whatever it does; `receive` says so."""

    def close(self) -> None:
        """Let go of it, when it has ended."""


@dataclass(eq=False)
class Ticket:
    """A job and who listens to it."""

    number: int
    listener: Callable[[Event], None]
    unstarted: int  # images without a slot
    unended: int  # images that have neither come nor failed
    running: int = 0  # images with a slot


class Dispatcher:
    """Jobs go to an engine's loop, events come back and are heard on a thread of their own.

    Listeners are called in order, and must return at once.

    Args:
        link: the way to the loop; nobody else uses it.
        queue_limit: the most images that may wait for a slot.
        on_death: called once, on the thread, when the loop has ended before it was to.
    """

    def __init__(self, link: Link, *, queue_limit: int, on_death: Callable[[], None]) -> None:
        self._link = link
        self._queue_limit = queue_limit
        self._on_death = on_death
        self._numbers = count()
        self._lock = threading.Lock()
        self._tickets: dict[int, Ticket] = {}
        self._waiting = 0
        self._running = 0
        self._wait_seconds = 0.0  # as of the last time that something happened
        self._closing = False
        self._dead = False
        self._thread = threading.Thread(target=self._listen, name="dispatcher", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """Only what is ready takes jobs; what is draining finishes those that it has."""
        if self._dead:
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
            NotRunning: the engine has failed, or is closing.
        """
        images = len(job.seeds)
        with self._lock:
            if self.state != "ready":
                raise NotRunning(f"the engine is {self.state}")
            excess = self._waiting + images - self._queue_limit
            if excess > 0:
                # the queue empties evenly: after this share of it has gone there is room
                raise QueueFull(self._waiting, self._wait_seconds * min(1.0, excess / max(1, self._waiting)))
            ticket = Ticket(next(self._numbers), listener, unstarted=images, unended=images)
            self._tickets[ticket.number] = ticket
            self._waiting += images
            self._link.send(Submit(ticket.number, job))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody wants it any more: its listener hears nothing more, but what is being told at this moment."""
        with self._lock:
            if ticket.number in self._tickets:
                self._forget(ticket)
                self._link.send(Cancel(ticket.number))

    def give_up(self) -> None:
        """Fail everything that was accepted and has not come; an engine that does not hear of it for long is ended."""
        with self._lock:
            tickets = list(self._tickets.values())
            for ticket in tickets:
                self._forget(ticket)
                self._link.send(Cancel(ticket.number))
        for ticket in tickets:
            ticket.listener(Failed(None, "stopping", "the server is stopping"))
        timer = threading.Timer(_HANGING_SECONDS, self._end_if_it_hangs)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End the loop at once, whatever it does: what was accepted fails."""
        self._link.kill()

    def close(self) -> None:
        """Finish what was accepted, then end the loop."""
        with self._lock:
            self._closing = True
            self._link.send(Close())
        self._thread.join()
        self._link.close()

    def _end_if_it_hangs(self) -> None:
        if self._closing and self._thread.is_alive():
            self._link.kill()

    def _listen(self) -> None:
        try:
            while (message := self._link.receive()) is not None:
                if isinstance(message, Died):
                    self._die(message.reason)
                    return
                self._hear(message)
        except Exception as error:  # nobody would be answered any more
            logger.exception("what the engine says is not understood")
            self._link.kill()
            self._die(f"the engine is not understood: {type(error).__name__}")

    def _hear(self, report: Report) -> None:
        self._wait_seconds = report.wait_seconds
        for number, event in report.events:
            with self._lock:
                ticket = self._tickets.get(number)
                if ticket is not None:
                    self._count(ticket, event)
            if ticket is not None:
                ticket.listener(event)

    def _count(self, ticket: Ticket, event: Event) -> None:
        if isinstance(event, Started):
            ticket.unstarted -= 1
            ticket.running += 1
            self._waiting -= 1
            self._running += 1
        elif isinstance(event, Finished | Failed):
            whole = isinstance(event, Failed) and event.index is None
            ticket.unended = 0 if whole else ticket.unended - 1
            if ticket.unended == 0:
                self._forget(ticket)
            else:
                ticket.running -= 1
                self._running -= 1

    def _forget(self, ticket: Ticket) -> None:
        del self._tickets[ticket.number]
        self._waiting -= ticket.unstarted
        self._running -= ticket.running

    def _die(self, reason: str) -> None:
        """Fail everyone who waits, and say so."""
        logger.error(reason)
        with self._lock:
            self._dead = True
            tickets = list(self._tickets.values())
            for ticket in tickets:
                self._forget(ticket)
        try:
            for ticket in tickets:
                ticket.listener(Failed(None, "engine died", reason))
        finally:
            self._on_death()
