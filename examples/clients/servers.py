"""Servers on free ports of 127.0.0.1."""

import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 600
STOP_SECONDS = 30


class NotStarted(Exception):
    """Why a server did not start."""


@contextmanager
def started(command: Sequence[str], ready: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Start a server in an empty folder, its port as the last argument; give its address once `ready` answers 200."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w+") as log:
        here = {"DATA_DIR": folder}  # Open WebUI's: every run starts without users
        process = subprocess.Popen(
            [*command, str(port)], cwd=folder, env={**variables, **here}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(url + ready, process)
            yield url
        except NotStarted:
            log.seek(0)
            print(*log.readlines()[-20:], sep="", file=sys.stderr, flush=True)
            raise
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise NotStarted(f"it ended with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(address, timeout=10):
                return
        except OSError:  # nobody listens yet, or 503
            time.sleep(1)
    raise NotStarted(f"it was not ready after {START_SECONDS} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
