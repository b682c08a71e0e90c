"""The parts of the bench, each run in a process of its own and ended after its deadline."""

import json
import multiprocessing
import multiprocessing.connection
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import first_line

if TYPE_CHECKING:
    from bench.cuda.result import Result

_PROCESSES = multiprocessing.get_context("forkserver")  # which imports everything once, and touches no GPU
_PROCESSES.set_forkserver_preload(["bench.cuda.workbench"])


@dataclass(frozen=True)
class Part:
    """A function of a module, given a workbench, that yields results; and the seconds that its process may take."""

    module: str
    function: str
    seconds: float


PARTS = {
    "card": Part("bench.cuda.card", "measure_card", 30),
    "steps": Part("bench.cuda.steps", "measure_steps", 100),
    "kernels": Part("bench.cuda.kernels", "measure_kernels", 80),
    "engine": Part("bench.cuda.engines", "measure_engine", 110),
    "windows": Part("bench.cuda.steps", "measure_windows", 45),
    "rounded": Part("bench.cuda.steps", "measure_rounded", 70),
    "baselines": Part("bench.cuda.engines", "measure_baselines", 100),
}


@dataclass(frozen=True)
class Failure:
    """A part that did not end well, and why."""

    part: str
    reason: str


def run_parts(
    names: Sequence[str], *, geometry: str, images: Sequence[int], dry: bool, out: Path
) -> Iterator["Result | Failure"]:
    """Run parts one after the other; yields each result as it comes, after a line with it was written to a file.

    Args:
        names: of `PARTS`.
        geometry: of random weights (`bench.speed.geometry`).
        images: numbers of guided images.
        dry: do everything small, in Triton's interpreter.
        out: file that gains the lines (JSON).
    """
    if dry:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton
    with open(out, "a", encoding="utf-8") as file:
        for name in names:
            for one in _run_part(name, geometry, sorted(set(images)), dry):
                if isinstance(one, Failure):
                    line: dict[str, object] = {"part": one.part, "failed": one.reason}
                else:
                    line = one.as_dict()
                print(json.dumps(line), file=file, flush=True)
                yield one


def _run_part(name: str, geometry: str, images: Sequence[int], dry: bool) -> Iterator["Result | Failure"]:
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    child = _PROCESSES.Process(
        target=_measure, args=(sender, name, PARTS[name], geometry, images, dry), name=f"bench cuda {name}"
    )
    child.start()
    sender.close()
    deadline = _Deadline(PARTS[name].seconds)
    try:
        while deadline.left > 0 and receiver.poll(deadline.left):
            try:
                received = receiver.recv()
            except EOFError:
                break
            if received is None:
                return
            yield received
            if isinstance(received, Failure):
                return
        if deadline.left <= 0:
            yield Failure(name, f"not done after {PARTS[name].seconds:g} seconds")
        else:
            child.join()
            yield Failure(name, f"its process ended with {child.exitcode}")
    finally:
        child.kill()
        child.join()


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


def _measure(
    sender: "multiprocessing.connection.Connection",
    name: str,
    part: Part,
    geometry: str,
    images: Sequence[int],
    dry: bool,
) -> None:
    """Run a part, in its own process, and send its results."""
    try:
        from bench.cuda.workbench import Workbench

        measure: Callable[[Workbench], Iterator[Result]] = getattr(import_module(part.module), part.function)
        for result in measure(Workbench(geometry, images, dry)):
            sender.send(result)
        sender.send(None)
    except Exception as error:
        traceback.print_exc()
        sender.send(Failure(name, f"{type(error).__name__}: {first_line(error)}"))
