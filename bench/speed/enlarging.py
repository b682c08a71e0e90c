"""Throughput of an engine while the upscaler enlarges pictures on the same cores."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from bench.measurements.measurement import Measurement, Number
from bench.speed.clients import PROMPT
from bench.speed.engine_alone import EngineAlone
from model.checkpoints.load import load
from pairs.scores import mean
from serve.upscaling.messages import LoadNetwork
from serve.upscaling.upscaler import LANCZOS, Upscaler
from train.provenance import provenance

_RANDOM = "compact-x4-random.pth"


def report(
    model: str,
    *,
    network: Path | None,
    side: int,
    threads: Sequence[int],
    slots: int,
    seconds: float,
    times: int,
    show: Callable[[str], None],
) -> Measurement:
    """Measure an engine alone, and while one picture after the other is enlarged, in turn.

    Args:
        model: shipped name or folder.
        network: super-resolution model; None for one with random weights and the architecture and widths of
            realesr-general-x4v3, Real-ESRGAN's small network.
        side: pixels to which a picture of the model's size is enlarged.
        threads: numbers of threads of an engine.
        slots: guided images drawn at once.
        seconds: of each time slice.
        times: time slices of each kind.
        show: called with table lines as they are measured.
    """
    drawn = load(model, device="cpu").image_size
    if side <= drawn:
        raise ValueError(f"--side: {side} pixels are no more than the model's {drawn}")
    place = provenance(device="cpu", dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        file = network or _random_network(Path(folder))
        show(
            f"{model}, {slots} slots, {file.name}, {drawn} → {side}, {', '.join(f'{k} {v}' for k, v in place.items())}"
        )
        show(f"threads  {'alone':>15}  {'while enlarging':>15}  {'ratio':>15}  {'seconds a picture':>17}")
        numbers = []
        for count in threads:
            with EngineAlone(model, PROMPT, slots=slots, threads=count) as engine:
                engine.saturate(seconds)  # warm-up
                alone, meanwhile, each = asyncio.run(_measure(engine, file, drawn, side, seconds, times))
            ratios = [one / other for one, other in zip(meanwhile, alone, strict=True)]
            columns = {
                "alone": (alone, "images/s"),
                "while enlarging": (meanwhile, "images/s"),
                "ratio": (ratios, "ratio"),
            }
            shown = "  ".join(f"{mean(one)!s:>15}" for one, _ in columns.values())
            show(f"{count:7d}  {shown}  {mean(each)!s:>17}")
            numbers += [
                Number.of_rounds(f"{count} threads, {name}", one, unit, "higher")
                for name, (one, unit) in columns.items()
            ]
            numbers.append(Number.of_rounds(f"{count} threads, enlarging", each, "s", "lower"))
    workload = {"model": model, "network": file.name, "side": side, "slots": slots, "seconds": seconds, "times": times}
    return Measurement("enlarging", workload, place, numbers)


async def _measure(
    engine: EngineAlone, file: Path, drawn: int, side: int, seconds: float, times: int
) -> tuple[list[float], list[float], list[float]]:
    """Images per second alone and while pictures are enlarged, and seconds a picture of the upscaler."""
    upscaler = Upscaler(LoadNetwork(file, "cpu", "warning", "text"))
    alone: list[float] = []
    meanwhile: list[float] = []
    each: list[float] = []
    try:
        await upscaler.load()
        for turn in range(times):
            for enlarges in (False, True)[:: -1 if turn % 2 else 1]:
                if not enlarges:
                    alone.append(await asyncio.to_thread(engine.saturate, seconds))
                    continue
                async with _enlarging(upscaler, drawn, side) as ended:
                    meanwhile.append(await asyncio.to_thread(engine.saturate, seconds))
                # the first and the last had the cores to themselves for a while; they count if there are no others
                each += ended[1:-1] or ended
    finally:
        upscaler.close()
    return alone, meanwhile, each


@contextlib.asynccontextmanager
async def _enlarging(upscaler: Upscaler, drawn: int, side: int) -> AsyncIterator[list[float]]:
    """Enlarge one picture after the other; yields the seconds of those that have ended."""
    picture = Image.effect_noise((drawn, drawn), 64).convert("RGB")
    ended: list[float] = []
    stopped = asyncio.Event()

    async def enlarge() -> None:
        while not stopped.is_set():
            started = time.perf_counter()
            enlarged = await upscaler.enlarge(picture, side, seconds=None)
            if enlarged.filter.startswith(LANCZOS):
                raise ValueError(f"the upscaler has failed: {enlarged.filter}")
            ended.append(time.perf_counter() - started)

    task = asyncio.create_task(enlarge())
    try:
        yield ended
    finally:
        stopped.set()
        await task


def _random_network(folder: Path) -> Path:
    """Save SRVGGNetCompact with 64 features, 32 convolutions between the first and the last, and 4 times the side."""
    torch.manual_seed(0)
    inner = [layer for _ in range(32) for layer in (nn.Conv2d(64, 64, 3), nn.PReLU(64))]
    body = nn.Sequential(nn.Conv2d(3, 64, 3), nn.PReLU(64), *inner, nn.Conv2d(64, 3 * 4**2, 3))
    file = folder / _RANDOM
    torch.save({f"body.{name}": weight for name, weight in body.state_dict().items()}, file)
    return file
