"""Runs of benchmarks that hold the lock of their folder, as commands do."""

import signal
from pathlib import Path

from bench.benchmarks import running
from bench.benchmarks.benchmark import Benchmark
from bench.benchmarks.paircomp import PairComp
from bench.judging import paircomp
from bench.pictures.generator import Generator
from bench.pictures.run_folder import RunFolder
from bench.pictures.run_lock import RunLock
from pairs.judges.opening import OpenedJudge


def draw_run(benchmark: Benchmark, generator: Generator, folder: Path) -> RunFolder:
    """Draw the pictures that are missing."""
    with RunLock(folder) as lock:
        return running.draw_run(benchmark, generator, lock)


def run(benchmark: PairComp, generator: Generator, judge: OpenedJudge, folder: Path) -> None:
    """Draw and judge what is missing."""
    with RunLock(folder) as lock:
        paircomp.run(benchmark, generator, judge, running.open_run(benchmark, generator, lock))


def hold(folder: Path) -> None:
    """Lock a folder, make the file `held` in it, and wait for ever."""
    with RunLock(folder):
        (folder / "held").touch()
        signal.pause()
