"""Open a benchmark by name."""

from collections.abc import Sequence
from pathlib import Path

from bench.benchmarks.benchmark import PROMPTS_FOLDER, Benchmark, BenchmarkError
from bench.benchmarks.dpg_bench import DpgBench
from bench.benchmarks.geneval import GenEval
from bench.benchmarks.geneval2 import GenEval2
from bench.benchmarks.paircomp import PairComp, prompts_file
from bench.benchmarks.t2i_compbench import T2ICompBench
from bench.benchmarks.wise import Wise
from bench.pictures.run_folder import read_manifest

_BENCHMARKS: dict[str, type[Benchmark]] = {
    kind.name: kind for kind in (PairComp, GenEval, T2ICompBench, DpgBench, GenEval2, Wise)
}


def open_benchmark(name: str, prompts: Sequence[str], *, seed: int) -> Benchmark:
    """Open a benchmark.

    Args:
        name: of the benchmark.
        prompts: files; a folder stands for its files, in the order of their names.
        seed: of the first picture.

    Raises:
        BenchmarkError: a file is missing, or not one of the benchmark's.
    """
    files: list[Path] = []
    for given in prompts:
        path = prompts_file(given) if name == PairComp.name else Path(given)
        files += sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise BenchmarkError(f"{', '.join(prompts)} has no .txt files")
    return _BENCHMARKS[name](files, seed=seed)


def benchmark_of(folder: Path) -> Benchmark:
    """Benchmark of a run, from the prompts in its folder.

    Raises:
        RunError: the folder is not of a run.
        BenchmarkError: its prompts are missing or damaged.
    """
    settings = read_manifest(folder)["settings"]["benchmark"]
    if settings["name"] not in _BENCHMARKS:
        raise BenchmarkError(f"{folder} is a run of {settings['name']!r}, which this version does not know")
    files = [folder / PROMPTS_FOLDER / name for name in settings["prompts"]]
    benchmark = _BENCHMARKS[settings["name"]](files, seed=settings["seed"])
    if benchmark.settings["digest"] != settings["digest"]:
        raise BenchmarkError(f"{folder / PROMPTS_FOLDER}: the prompts have changed since the pictures were drawn")
    return benchmark
