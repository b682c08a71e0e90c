"""Commands in processes of their own, forked from one that has imported everything: a new one takes seconds for that."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path


class ForkedCommand:
    """A running command; what it prints is in a file.

    Args:
        main: entry point of the command; importable.
        arguments: of its command line.
        log: file.
        file_bytes: most bytes of a file that it writes, which simulates a full disk.
    """

    def __init__(
        self, main: Callable[[], None], *arguments: str | Path, log: Path, file_bytes: int | None = None
    ) -> None:
        self._log = log
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run, args=(main, [str(one) for one in arguments], log, file_bytes)
        )
        self._process.start()

    @property
    def printed(self) -> str:
        return self._log.read_text()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.join()

    def interrupt(self) -> None:
        """Send it SIGINT, as Ctrl-C does."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Exit code, once it has ended."""
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        return code


def _run(main: Callable[[], None], arguments: list[str], log: Path, file_bytes: int | None) -> None:
    # tests may themselves run in the background, where shells have Ctrl-C ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.argv = ["focusdiff", *arguments]
    main()
