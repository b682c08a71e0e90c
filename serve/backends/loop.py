"""The loop that owns an engine: obey commands, step, report."""

import logging
from collections.abc import Callable
from queue import SimpleQueue

from serve.backends.messages import Cancel, Close, Command, Died, Report, Submit
from serve.engine.engine import Engine
from serve.engine.events import Ended, Event, Queued
from serve.engine.job import JobState

logger = logging.getLogger("focusdiff")


class EngineLoop:
    """Steps an engine until it is told to close and every job has ended, or until a step fails.

    Args:
        engine: used by the loop only while it runs.
        commands: from any thread.
        report: receives reports and, last, a failure; called on the loop's thread, and must return at once.
    """

    def __init__(
        self, engine: Engine, commands: "SimpleQueue[Command]", report: Callable[[Report | Died], None]
    ) -> None:
        self._engine = engine
        self._commands = commands
        self._report = report
        self._states: dict[int, JobState] = {}
        self._numbers: dict[JobState, int] = {}
        # sent with the next report, because each report wakes the server
        self._unreported: list[tuple[int, Event]] = []
        self._closing = False

    def run(self) -> None:
        """Blocks."""
        try:
            while self._obey():
                for state, event in self._engine.step():
                    self._unreported.append((self._numbers[state], event))
                    if isinstance(event, Ended):
                        self._forget(self._numbers[state])
                if self._unreported:
                    self._report(Report(tuple(self._unreported), self._engine.wait_seconds))
                    self._unreported.clear()
        except BaseException as error:
            logger.exception("the engine failed")
            self._report(Died(f"the engine failed: {type(error).__name__}"))

    def _obey(self) -> bool:
        """Carry out the commands that came since the last step; waits while the engine is idle. False at the end."""
        while self._engine.idle or not self._commands.empty():
            if self._closing and self._commands.empty():
                return False
            match self._commands.get():
                case Submit(number, job):
                    queued = Queued(self._engine.scheduler.waiting_images, self._engine.wait_seconds)
                    self._states[number] = state = self._engine.submit(job)
                    self._numbers[state] = number
                    self._unreported.append((number, queued))
                case Cancel(number):
                    if number in self._states:
                        self._engine.cancel(self._states[number])
                        self._forget(number)
                case Close():
                    self._closing = True
        return True

    def _forget(self, number: int) -> None:
        del self._numbers[self._states.pop(number)]
