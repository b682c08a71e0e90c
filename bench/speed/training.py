"""Timings of GRPO: whole steps by part, rollouts against other loops, and the trainer's pass over a micro-batch."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image

from bench.speed.baselines import with_a_growing_cache
from bench.speed.engine import Timing, Workload, seeds_of, time_engine, time_loop
from bench.speed.memory import peak_bytes
from model.janus import Janus
from pairs.judges.exact.exact_judge import ExactJudge
from pairs.judges.judge import Judgement
from serve.engine.engine import Engine
from train.data.opening import DataSettings, open_source
from train.grpo.objective.policy import PromptTable, score
from train.grpo.recipe import GRPORecipe
from train.grpo.trainer import Trainer
from train.ranks import ALONE
from train.weights.opening import open_weights
from train.weights.weights import checkpoint_activations


class TimedJudge:
    """The exact judge, with the seconds of processor time that it has taken."""

    def __init__(self) -> None:
        self._judge, self.seconds = ExactJudge(), 0.0

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        begun = time.thread_time()
        try:
            return self._judge(images, prompts)
        finally:
            self.seconds += time.thread_time() - begun


@dataclass(frozen=True)
class StepTimes:
    """Medians over the steps of a run, after the first one.

    seconds: of a step, by part. Pictures are judged while others are drawn: both are one part.
    judging: seconds of processor time of that part that the judge takes.
    samples: pictures drawn or taken from the ground truth.
    live: share of the samples that have an advantage; the others cost no update.
    """

    seconds: Mapping[str, float]
    judging: float
    samples: float
    live: float

    @property
    def whole(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())


def time_steps(janus: Janus, recipe: GRPORecipe, *, steps: int) -> StepTimes:
    """Train `steps` + 1 steps on the procedural world, in place; nothing is kept."""
    recipe = recipe.model_copy(
        update={
            "steps": steps + 1,
            "output": recipe.output.model_copy(update={"save_every": steps + 1, "grid_every": 0}),
        }
    )
    judge, rows, judged = TimedJudge(), [], [0.0]
    source = open_source(DataSettings("world"), janus, seed=recipe.seed, category_weights={}).source

    def remember(_: int, row: dict[str, float]) -> None:
        rows.append(row)
        judged.append(judge.seconds)

    with tempfile.TemporaryDirectory() as folder:
        Trainer(janus, source, judge, recipe, Path(folder)).run(on_step=remember)
    kept = rows[1:]
    parts = [name for name in kept[0] if name.startswith("seconds: ")]
    each = [after - before for before, after in pairwise(judged[1:])]
    whole = [sum(row[part] for part in parts) for row in kept]
    return StepTimes(
        {part.removeprefix("seconds: "): statistics.median(row[part] for row in kept) for part in parts},
        statistics.median(each),
        statistics.median(row["samples per second"] * seconds for row, seconds in zip(kept, whole, strict=True)),
        statistics.mean(row["live samples"] for row in kept),
    )


def time_rollouts(janus: Janus, pictures: int, *, rounds: int) -> dict[str, float]:
    """Pictures per second, pixels included: median over rounds in which all ways take turns."""
    work, few = Workload.of(janus), max(1, pictures // 8)
    together, alone = Engine(janus, slots=pictures, logprobs=True), Engine(janus, slots=1, logprobs=True)
    ways: dict[str, tuple[int, Callable[[range], Timing]]] = {
        "engine, together": (pictures, partial(time_engine, together, work)),
        "engine, one at a time": (few, partial(time_engine, alone, work)),
        "growing cache, together": (pictures, partial(time_loop, with_a_growing_cache, work)),
        "growing cache, one at a time": (1, partial(time_loop, with_a_growing_cache, work)),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, (images, way) in ways.items():
            taken[name].append(images / way(seeds_of(turn, images)).whole)
    return {name: statistics.median(rates[1:]) for name, rates in taken.items()}


@dataclass(frozen=True)
class Pass:
    """Forward and backward pass over a micro-batch: tokens per second (both rows of a picture count) and peak bytes."""

    tokens_per_second: float
    peak: int


def time_passes(janus: Janus, recipe: GRPORecipe, pictures: int, *, rounds: int) -> dict[str, Pass]:
    """The trainer's pass with prompts read once, read for each picture, and with activation checkpointing."""
    params = recipe.rollout.params
    work = Workload.of(janus)
    codes = torch.randint(janus.codebook_size, (pictures, janus.image_tokens), device=janus.device)
    shared = PromptTable.of([work.prompt] * pictures, janus.ids, janus.device)
    rows = torch.arange(pictures, device=janus.device)
    both = torch.cat([shared.conditional, shared.unconditional])
    apart = replace(
        shared, ids=shared.ids[both], mask=shared.mask[both], conditional=rows, unconditional=pictures + rows
    )
    kinds = {
        "prompts read once": (shared, False),
        "prompts read for each picture": (apart, False),
        "with activation checkpointing": (shared, True),
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    peaks: dict[str, int] = {}

    weights = open_weights(janus, ALONE, recipe.weights.model_copy(update={"activation_checkpointing": False}))

    def run(name: str) -> None:
        prompts, checkpointing = kinds[name]
        if checkpointing:
            checkpoint_activations(weights.network)
        try:
            torch.autograd.backward(score(weights.logits, prompts, codes, params).logprobs.mean())
        finally:
            weights.network.activation_checkpointing_disable()
            weights.network.eval()

    for turn in range(rounds + 1):
        for name in kinds:
            begun = time.perf_counter()
            run(name)
            if janus.device.type == "cuda":
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - begun)
            if turn == rounds:
                peaks[name] = peak_bytes(partial(run, name), janus.device)
    tokens = (2 if params.guided else 1) * codes.numel()
    return {name: Pass(tokens / statistics.median(times[1:]), peaks[name]) for name, times in taken.items()}
