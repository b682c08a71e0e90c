"""Throughput of an engine without a server, in its own process."""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Self

import torch

from model.checkpoints.load import load
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Failed, Finished
from serve.engine.job import Job
from serve.engine.previews import preview_rows


def images_per_second(engine: Engine, prompt: str, *, seconds: float) -> float:
    """Images per second with jobs of one image and one preview, twice as many in flight as there are slots.

    Starts are spread evenly over the steps of one image, as in `bench.speed.clients.saturate`. Counting starts when
    twice as many images as slots are complete.

    Args:
        engine: idle before and after.
        prompt: prompt of all images.
        seconds: duration of counting.
    """
    janus, slots = engine.janus, engine.slots
    ids = janus.encode(prompt)
    rows = preview_rows(1, janus.grid)
    asked = ended = steps = 0

    def ask() -> Iterator[Job | None]:
        nonlocal asked
        while True:
            clients = 2 * slots if steps >= janus.image_tokens else 1 + steps * slots // janus.image_tokens
            if asked < clients + ended:  # each client asks again as soon as it has its picture
                asked += 1
                yield Job(ids, None, (asked,), janus.sampling, preview_rows=rows)
            else:
                yield None

    def count_step(_: int) -> None:
        nonlocal steps
        steps += 1

    begun: float | None = None
    with contextlib.closing(draw(engine, ask(), on_step=count_step)) as drawing:
        for _, event in drawing:
            if isinstance(event, Failed):
                raise ValueError(f"{janus.name} cannot draw {prompt!r}: {event.reason}")
            if not isinstance(event, Finished):
                continue
            ended += 1
            now = time.perf_counter()
            if begun is None:
                begun = now if ended == 2 * slots else None
            elif now - begun >= seconds:  # from one image's end to another's, so that no interval is cut
                return (ended - 2 * slots) / (now - begun)
    raise AssertionError("the jobs never end")


class EngineAlone:
    """Process that runs this module and measures one time slice per call of `saturate`.

    Args:
        model: shipped name or folder.
        prompt: of all images.
        slots: guided images drawn at once.
        threads: of the process.
        jacobi: whether it draws with windows of several places.
        environment: variables in addition to this process's.
    """

    def __init__(
        self,
        model: str,
        prompt: str,
        *,
        slots: int,
        threads: int,
        jacobi: bool = True,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        command = [sys.executable, "-m", "bench.speed.engine_alone", model, prompt]
        command += ["--slots", str(slots), "--threads", str(threads)]
        command += [] if jacobi else ["--no-jacobi"]
        variables = os.environ | {"OMP_NUM_THREADS": str(threads), **environment}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )

    def saturate(self, seconds: float) -> float:
        """Images per second, measured for `seconds` seconds.

        Raises:
            ChildProcessError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(seconds, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"the engine alone ended with code {self._process.wait()}")
        return float(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


def main() -> None:
    """Read durations in seconds from standard input, one per line; print the images per second of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--jacobi", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    engine = Engine(load(arguments.model, device="cpu"), slots=arguments.slots, jacobi=arguments.jacobi)
    for line in sys.stdin:
        rate = images_per_second(engine, arguments.prompt, seconds=float(line))
        print(rate, flush=True)


if __name__ == "__main__":
    main()
