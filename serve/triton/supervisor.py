"""Triton's server as a child process that is ended when one of its models is dead."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from serve.backends.triton.server import TritonServer

logger = logging.getLogger("focusdiff")
_POLL_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


async def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    url: str,
    models: Sequence[str],
    silence_seconds: float,
    drain_seconds: float,
    shared: str,
) -> int:
    """Run Triton until it is told to stop, or until one of its models answers nothing any more.

    Triton goes on, and calls itself ready, when the process of a model has died. Here it is ended then, as a server
    whose engine has died, so that a supervisor starts it again.

    Args:
        command, environment: of `serve.triton.launch`.
        url: host:port of its gRPC service.
        models: names in Triton.
        silence_seconds: without an answer, after which a model is dead.
        drain_seconds: for the other models' requests then.
        shared: first part of the names of Triton's shared memory. Models take them off when they are loaded
            (`serve.triton.server_process`); what still has one is removed in the end.

    Returns:
        Triton's exit code; 1 if a model was dead.
    """
    # the Python backend looks for modules in the working directory, where a folder `triton` would pass for the package
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd="/", preexec_fn=_end_with_parent, start_new_session=True
    )
    stopping = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, _stop, process, stopping)
    servers = [TritonServer(url, model, silence_seconds=silence_seconds, on_change=lambda _: None) for model in models]
    watching = [asyncio.create_task(server.watch()) for server in servers]
    ended = asyncio.create_task(process.wait())
    # looks in a row at which nothing new had been answered; time is not compared, since a machine may be suspended
    looks = Counter[TritonServer]()
    heard = {server: server.heard for server in servers}
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=_POLL_SECONDS)
            for server in servers:
                looks[server] = looks[server] + 1 if server.reached and server.heard == heard[server] else 0
                heard[server] = server.heard
            dead = [server for server in servers if looks[server] * _POLL_SECONDS >= silence_seconds]
            if dead and not stopping.is_set() and not ended.done():
                names = ", ".join(server.model for server in dead)
                logger.error("ending Triton: no answer of %s for %g seconds", names, silence_seconds)
                await _end(process, drain_seconds=0 if len(dead) == len(servers) else drain_seconds)
                return 1
        return ended.result()
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await asyncio.gather(*[server.close() for server in servers])
        # the process of a model that hangs does not notice that Triton has ended, and would keep its memory
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for region in Path("/dev/shm").glob(f"{shared}*"):
            region.unlink(missing_ok=True)


def _stop(process: asyncio.subprocess.Process, stopping: asyncio.Event) -> None:
    stopping.set()
    process.terminate()


async def _end(process: asyncio.subprocess.Process, *, drain_seconds: float) -> None:
    if drain_seconds > 0:
        process.terminate()
        await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=drain_seconds)
    if process.returncode is None:
        process.kill()
    await process.wait()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
