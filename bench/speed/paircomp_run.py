"""Pictures a second of a run of PairComp, relative to the engine alone.

A run also writes each picture, and judges it while others are drawn.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from bench.benchmarks.paircomp import PairComp
from bench.benchmarks.running import open_run
from bench.judging.paircomp import run
from bench.measurements.measurement import Measurement, Number
from bench.pictures.from_engine import EngineGenerator
from bench.pictures.picture import Part
from bench.pictures.run_lock import RunLock
from model.checkpoints.load import load
from pairs.judges.judge import Judgement
from pairs.judges.opening import OpenedJudge, open_judge
from pairs.judges.settings import JudgeSettings
from pairs.scores import mean
from train.provenance import provenance

JudgeName = Literal["free", "exact"]


def report(
    model: str,
    *,
    prompts: Path,
    judges: Sequence[JudgeName],
    threads: Sequence[int],
    slots: int,
    rounds: int,
    show: Callable[[str], None],
) -> Measurement:
    """Time the engine alone, and a run with each judge, one after the other.

    Args:
        model: shipped name or folder.
        prompts: file of the cases.
        judges: "free", whose judgements cost nothing, and "exact", which reads prompts of the procedural world only.
        threads: numbers of threads of the engine.
        slots: guided pictures drawn at once.
        rounds: of all these; every second one in the opposite order.
        show: called with table lines as they are measured.
    """
    benchmark = PairComp([prompts])
    generator = EngineGenerator(load(model, device="cpu"), slots=slots)
    opened = {name: _open(name) for name in judges}
    place = provenance(device="cpu", dtype="float32")
    show(
        f"{model}, {len(benchmark.pictures)} pictures, {slots} slots, {', '.join(f'{k} {v}' for k, v in place.items())}"
    )
    show(f"threads  {'engine alone':>15}  " + "  ".join(f"{name + ' judge':>15}" for name in opened))
    numbers = []
    for count in threads:
        torch.set_num_threads(count)
        _draw(benchmark, generator)  # warm-up
        shares: dict[JudgeName, list[float]] = {name: [] for name in opened}
        rates = []
        for turn in range(rounds):
            seconds: dict[JudgeName | None, float] = {}
            for name in [None, *opened][:: -1 if turn % 2 else 1]:
                started = time.perf_counter()
                if name is None:
                    _draw(benchmark, generator)
                else:
                    _run(benchmark, generator, opened[name])
                seconds[name] = time.perf_counter() - started
            rates.append(len(benchmark.pictures) / seconds[None])
            for name in opened:
                shares[name].append(seconds[None] / seconds[name])
        show(f"{count:7d}  {mean(rates)!s:>15}  " + "  ".join(f"{mean(one)!s:>15}" for one in shares.values()))
        numbers.append(Number.of_rounds(f"{count} threads, engine alone", rates, "images/s", "higher"))
        numbers += [
            Number.of_rounds(f"{count} threads, {name} judge", one, "ratio", "higher") for name, one in shares.items()
        ]
    workload = {"model": model, "prompts": prompts.name, "slots": slots, "rounds": rounds}
    return Measurement("paircomp-run", workload, place, numbers)


def _open(name: JudgeName) -> OpenedJudge:
    if name == "exact":
        return open_judge(JudgeSettings())
    return OpenedJudge(_judge_freely, {"judge": "free", "judge model": "free"})


def _draw(benchmark: PairComp, generator: EngineGenerator) -> None:
    for _ in generator.draw([Part(picture, 0) for picture in benchmark.pictures]):
        pass


def _run(benchmark: PairComp, generator: EngineGenerator, judge: OpenedJudge) -> None:
    with tempfile.TemporaryDirectory() as folder, RunLock(Path(folder) / "run") as lock:
        run(benchmark, generator, judge, open_run(benchmark, generator, lock))


def _judge_freely(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
    """Scores that are not all equal, which would be an error."""
    return [Judgement(len(prompt) / 4096) for prompt in prompts]
