"""The end of Triton's process, of which this one is a part.

A Triton server that is killed leaves the processes of its models running, and the memory that it shares with them allocated.
"""

import os
import select
import threading
from pathlib import Path

_SHARED = Path("/dev/shm")


def end_with_server() -> None:
    """End this process, at once, when the one that started it ends, so that the memory that they share is free then.

    Waits for the process, and not for the thread that started this one: Triton's loading thread ends earlier.
    """
    number = os.getppid()
    server = os.pidfd_open(number)
    # Triton names its own process in the command line of this one
    named = Path("/proc/self/cmdline").read_text().split("\0")
    if os.getppid() != number or str(number) not in named:
        os._exit(1)  # it has ended already, and the number is another's
    # both have mapped it: without a name it is freed with the last of them, however they end
    for region in _shared_regions():
        region.unlink(missing_ok=True)
    threading.Thread(target=_wait, args=(server,), name="server", daemon=True).start()


def _wait(server: int) -> None:
    select.select([server], [], [])  # a pidfd is readable when its process has ended
    os._exit(1)


def _shared_regions() -> set[Path]:
    """Files of shared memory that this process has mapped."""
    mapped = {Path(line.split()[5]) for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm/" in line}
    return {path for path in mapped if path.parent == _SHARED}
