"""`focusdiff-bench training`: time and memory of a step of GRPO."""

from collections.abc import Callable

import torch

from bench.measurements.measurement import Measurement, Number
from bench.speed.training import time_passes, time_rollouts, time_steps
from model.checkpoints.load import load
from train.grpo.recipe import load_recipe
from train.provenance import provenance


def report(
    *,
    model: str,
    recipe: str,
    device: str,
    threads: int,
    steps: int,
    rounds: int,
    show: Callable[[str], None],
) -> Measurement:
    """Run all timings.

    Args:
        model: shipped name or folder.
        recipe: of GRPO, by name or path.
        device: cpu, cuda or auto.
        threads: CPU threads.
        steps: training steps that are timed, after one that is not.
        rounds: rounds of the other timings.
        show: called with table lines as they are measured.

    Raises:
        ValueError: a setting is out of range; the message names it.
    """
    for name, value in (("--threads", threads), ("--steps", steps), ("--rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    torch.set_num_threads(threads)
    settings, janus = load_recipe(recipe), load(model, device=device)
    where = provenance(device=janus.device, dtype=janus.dtype)
    show(f"{janus.name}, recipe {recipe}, {', '.join(f'{k} {v}' for k, v in where.items())}")
    numbers: list[Number] = []

    pictures = min(64, 2 * settings.rollout.pairs * settings.rollout.samples)
    show(f"\n{pictures} rollouts                    pictures/s  engine together ÷ this")
    rates = time_rollouts(janus, pictures, rounds=rounds)
    for name, rate in rates.items():
        show(f"{name:30} {rate:10.2f}  {rates['engine, together'] / rate:10.2f}×")
        numbers.append(Number(f"rollouts: {name}", rate, "images/s", "higher"))

    batch = min(settings.update.micro_batch, pictures)
    show(f"\nforward and backward of {batch:3} pictures  tokens/s  peak MiB")
    for name, one in time_passes(janus, settings, batch, rounds=rounds).items():
        show(f"{name:35} {one.tokens_per_second:9.0f}  {one.peak / 2**20:8.1f}")
        numbers.append(Number(f"pass: {name}", one.tokens_per_second, "tokens/s", "higher"))
        numbers.append(Number(f"pass: {name}, peak", one.peak / 2**20, "MiB", "lower"))

    times = time_steps(janus, settings, steps=steps)
    rate = times.samples / times.whole
    show(
        f"\na step: {times.samples:.0f} samples, {times.live:.0%} with an advantage: {times.whole:.2f} s, "
        f"{rate:.1f} samples/s"
    )
    numbers.append(Number("step", rate, "samples/s", "higher"))
    for part, seconds in times.seconds.items():
        show(f"{part:30} {seconds:8.2f} s  {seconds / times.whole:6.1%}")
        numbers.append(Number(f"step: {part}", seconds, "s", "lower"))
    show(f"{'of which the judge':30} {times.judging:8.2f} s  {times.judging / times.whole:6.1%}")
    numbers.append(Number("step: of which the judge", times.judging, "s", "lower"))
    return Measurement("training", {"model": janus.name, "recipe": recipe}, where, numbers)
