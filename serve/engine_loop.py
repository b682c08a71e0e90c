"""The loop that owns an engine: between two steps it obeys, after each it reports."""

import logging
from collections.abc import Callable
from queue import SimpleQueue

from serve.engine import Engine
from serve.events import Event, Failed, Finished, Queued
from serve.messages import Cancel, Close, Command, Died, Report, Submit
from serve.request import Request

logger = logging.getLogger("focusdiff")


class EngineLoop:
    """Draws what it is told to until it is told to close and has finished, or a step fails.

    Args:
        engine: nobody else may touch it while the loop runs.
        commands: what to do, from any thread.
        tell: hears reports, and of a failed step, which is the last; on the loop's thread, and must return at once.
    """

    def __init__(self, engine: Engine, commands: "SimpleQueue[Command]", tell: Callable[[Report | Died], None]) -> None:
        self._engine = engine
        self._commands = commands
        self._tell = tell
        self._requests: dict[int, Request] = {}
        self._numbers: dict[Request, int] = {}
        self._accepted: list[tuple[int, Event]] = []  # what the next report begins with: each wakes those who hear it
        self._closing = False

    def run(self) -> None:
        """Blocks."""
        try:
            while self._obey():
                drawn = [(self._numbers[request], event) for request, event in self._engine.step()]
                events, self._accepted = (*self._accepted, *drawn), []
                if events:
                    self._tell(Report(events, self._engine.wait_seconds))
                for number in {number for number, event in events if isinstance(event, Finished | Failed)}:
                    if not self._requests[number].live:
                        self._forget(number)
        except BaseException as error:
            logger.exception("the engine failed")
            self._tell(Died(f"the engine failed: {type(error).__name__}"))

    def _obey(self) -> bool:
        """Do what was asked for since the last step; sleeps while there is nothing to do. False at the end."""
        while self._engine.idle or not self._commands.empty():
            if self._closing and self._commands.empty():
                return False
            match self._commands.get():
                case Submit(number, job):
                    queued = Queued(self._engine.scheduler.waiting_images, self._engine.wait_seconds)
                    self._requests[number] = request = self._engine.submit(job)
                    self._numbers[request] = number
                    self._accepted.append((number, queued))
                case Cancel(number):
                    if number in self._requests:
                        self._engine.cancel(self._requests[number])
                        self._forget(number)
                case Close():
                    self._closing = True
        return True

    def _forget(self, number: int) -> None:
        del self._numbers[self._requests.pop(number)]
