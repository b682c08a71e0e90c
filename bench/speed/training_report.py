"""`focusdiff-bench training`: what a step of GRPO takes, as tables and one JSON line."""

import json
from collections.abc import Iterator

import torch

from bench.speed.training import time_passes, time_rollouts, time_steps
from model.checkpoints.load import load
from train.grpo.recipe import load_recipe
from train.provenance import provenance


def report(*, model: str, recipe: str, device: str, threads: int, steps: int, rounds: int) -> Iterator[str]:
    """Run all timings; yield table lines as they are measured, then one JSON line.

    Args:
        model: shipped name or folder.
        recipe: of GRPO, by name or path.
        device: cpu, cuda or auto.
        threads: CPU threads.
        steps: training steps that are timed, after one that is not.
        rounds: rounds of the other timings.

    Raises:
        ValueError: a setting is out of range; the message names it.
    """
    for name, value in (("--threads", threads), ("--steps", steps), ("--rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    torch.set_num_threads(threads)
    settings, janus = load_recipe(recipe), load(model, device=device)
    where = provenance(device=janus.device, dtype=janus.dtype)
    yield f"{janus.name}, recipe {recipe}, {', '.join(f'{k} {v}' for k, v in where.items())}"

    pictures = min(64, 2 * settings.rollout.pairs * settings.rollout.samples)
    yield f"\n{pictures} rollouts                    pictures/s  engine together ÷ this"
    rates = time_rollouts(janus, pictures, rounds=rounds)
    for name, rate in rates.items():
        yield f"{name:30} {rate:10.2f}  {rates['engine, together'] / rate:10.2f}×"

    batch = min(settings.update.micro_batch, pictures)
    yield f"\nforward and backward of {batch:3} pictures  tokens/s  peak MiB"
    passes = time_passes(janus, settings, batch, rounds=rounds)
    for name, one in passes.items():
        yield f"{name:35} {one.tokens_per_second:9.0f}  {one.peak / 2**20:8.1f}"

    times = time_steps(janus, settings, steps=steps)
    yield (
        f"\na step: {times.samples:.0f} samples, {times.live:.0%} with an advantage: {times.whole:.2f} s, "
        f"{times.samples / times.whole:.1f} samples/s"
    )
    for part, seconds in times.seconds.items():
        yield f"{part:30} {seconds:8.2f} s  {seconds / times.whole:6.1%}"
    yield f"{'of which the judge':30} {times.judging:8.2f} s  {times.judging / times.whole:6.1%}"
    result = {
        "model": janus.name,
        "recipe": recipe,
        **where,
        "rollouts": rates,
        "passes": {name: vars(one) for name, one in passes.items()},
        "step": vars(times),
    }
    yield "\n" + json.dumps(result)
