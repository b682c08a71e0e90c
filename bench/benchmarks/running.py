"""Runs of a benchmark: its pictures drawn into a folder."""

from bench.benchmarks.benchmark import Benchmark
from bench.pictures.drawing import draw_pictures
from bench.pictures.generator import Generator
from bench.pictures.run_folder import RunFolder
from bench.pictures.run_lock import RunLock


def draw_run(benchmark: Benchmark, generator: Generator, lock: RunLock) -> RunFolder:
    """Draw a benchmark's pictures that are missing.

    Args:
        benchmark: its prompts and pictures.
        generator: draws them.
        lock: of the run's folder; a stopped run goes on there.

    Raises:
        RunError: the folder holds something else, or a damaged picture.
        GenerationError: a picture cannot be drawn.
    """
    run = open_run(benchmark, generator, lock)
    missing = run.missing(benchmark.pictures, reads=benchmark.reads)
    draw_pictures(run, benchmark.pictures, missing, generator)
    return run


def open_run(benchmark: Benchmark, generator: Generator, lock: RunLock) -> RunFolder:
    """Open the folder of a run, and write what the evaluator needs beside the pictures.

    Raises:
        RunError: it holds something else.
    """
    run = RunFolder(lock, {"benchmark": benchmark.settings, "generator": generator.settings})
    benchmark.write(run.folder)
    return run
