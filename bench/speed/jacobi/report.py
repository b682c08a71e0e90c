"""`focusdiff-bench jacobi`: Jacobi decoding against single places."""

import contextlib
import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import torch

from bench.benchmarks.paircomp import prompts_file
from bench.measurements.measurement import Measurement, Number
from bench.speed.clients import PROMPT
from bench.speed.engine import Workload
from bench.speed.engine_alone import EngineAlone
from bench.speed.geometry import GEOMETRIES, random_janus
from bench.speed.jacobi.divergence import measure_divergence
from bench.speed.jacobi.loads import Both, replayed_side_by_side, shipped_loads, side_by_side
from bench.speed.jacobi.prediction import Prediction, predict
from bench.speed.jacobi.recording import WIDTHS, Recording, pair_of, record
from bench.speed.jacobi.step_cost import H100, Shape, StepTimer, roofline
from model.checkpoints.load import load
from model.janus import Janus
from model.quantization import Quantization
from model.sampler.state import MOST_FED
from pairs.paircomp import Case, read_cases
from pairs.scores import mean
from serve.engine.engine import Engine
from train.provenance import provenance

_PRECISIONS: Mapping[str, Quantization | None] = {"float32": None, "int8": "int8"}
_TOKENS = 576  # codes of a picture of Janus-Pro
_LENGTH = 318  # tokens of a row of Janus-Pro in the middle of a picture
_HEADER = (
    "\n                                              steps of a batch      images/s      single ÷ Jacobi: codes     whole"
    "        predicted, width      measured ÷ predicted, choosing"
)
Show = Callable[[str], None]


def report(
    *,
    model: str,
    geometry: str | None,
    images: Sequence[int],
    threads: int,
    rounds: int,
    cases: int,
    seconds: float,
    plot: Path | None,
    show: Show,
) -> Measurement:
    """Record confirmation, measure what steps cost and draw both ways in turn, and compare with what the former two predict.

    Args:
        model: shipped name or folder, whose confirmation is recorded.
        geometry: model with random weights that is timed instead (`bench.speed.geometry`); its windows add as many codes
            as recorded.
        images: numbers of images that are drawn together with a geometry.
        threads: CPU threads.
        rounds: of each timing, after one that is not counted; with a geometry all are.
        cases: pairs of prompts that confirmation is recorded with.
        seconds: of each time slice of a saturated engine; 0 skips it.
        plot: picture of the confirmation to write.
        show: called with table lines as they are measured.

    Raises:
        ValueError: a setting is out of range, or the C functions are missing; the message says which.
    """
    for name, value in (("--threads", threads), ("--rounds", rounds), ("--cases", cases), ("--images", min(images))):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    torch.set_num_threads(threads)
    pairs = read_cases(prompts_file("pairshapes-validation"))
    trained = load(model, device="cpu")
    if not Engine(trained, slots=1).decoder.is_native:
        raise ValueError("Jacobi decoding needs the C functions: a C compiler and float32")
    where = provenance(device="cpu", dtype="float32")
    show(f"{geometry or trained.name}, {', '.join(f'{k} {v}' for k, v in where.items())}")
    chosen = pairs[:: max(1, len(pairs) // cases)][:cases]
    recorded = {twin: record(trained, chosen, twin=twin) for twin in (False, True)}
    numbers = list(_confirmation(recorded, show))
    if plot is not None:
        from bench.speed.jacobi.plot import draw_confirmation

        draw_confirmation(recorded, plot)
    if geometry is None:
        numbers += _in_bfloat16(model, chosen, show)
        numbers += _shipped(trained, pairs, recorded, rounds=rounds, show=show)
        if seconds:
            numbers += _saturated(model, threads=threads, seconds=seconds, rounds=rounds, show=show)
    else:
        del trained
        numbers += _random(geometry, recorded, images=images, rounds=rounds, show=show)
    numbers += _on_an_accelerator(recorded, show)
    workload = {"model": geometry or model, "confirmation": model, "cases": cases, "rounds": rounds, "seconds": seconds}
    return Measurement("jacobi", workload, where, numbers)


def _confirmation(recorded: Mapping[bool, Recording], show: Show) -> Iterator[Number]:
    show("\ncodes a step adds       alone   with a twin")
    for width in WIDTHS:
        alone, twin = (recorded[own].codes_per_step(width) for own in (False, True))
        show(f"{width:2} places      {alone!s:>15} {twin!s:>15}")
        for name, one in (("alone", alone), ("with a twin", twin)):
            yield Number(f"codes a step of {width} places, {name}", one.value, "codes", "higher", count=one.count)
    show("\nby line of the picture, 4 places")
    for name, own in (("alone", False), ("with a twin", True)):
        lines = recorded[own].by_line(4)
        show(f"{name:12} " + "  ".join(f"{mean(line).value:.2f}" if line else "    " for line in lines))


def _in_bfloat16(model: str, cases: Sequence[Case], show: Show) -> Iterator[Number]:
    janus = load(model, device="cpu", dtype="bfloat16")
    show("\nin bfloat16 (PyTorch)        pictures the same   codes before a difference   flips a code")
    jobs = [job for case in cases for job in pair_of(janus, case, seed=2 * case.number)]
    for one in measure_divergence(janus, jobs):
        show(f"{one.way:28} {one.same!s:>17}   {one.prefix!s:>25}   {one.flips:12.5f}")
        yield Number(f"bfloat16, {one.way}: flips a code", one.flips, "ratio", "lower")


def _shipped(
    janus: Janus, pairs: Sequence[Case], recorded: Mapping[bool, Recording], *, rounds: int, show: Show
) -> Iterator[Number]:
    engines = {precision: Engine(janus, slots=16, quantization=_PRECISIONS[precision]) for precision in _PRECISIONS}
    tokens, loads = len(janus.encode(PROMPT)), list(shipped_loads(janus, pairs))
    for precision, engine in engines.items():
        yield from _costs(precision, StepTimer(engine, _SHOWN, janus.sampling, prompt_tokens=tokens), 5 * rounds, show)
        show(_HEADER)
        for one in loads:
            timer = StepTimer(engine, _shapes({1, one.images}), janus.sampling, prompt_tokens=tokens)
            both = side_by_side(engine, one, timer, rounds=rounds)
            predicted = _predicted(both, recorded[one.twin], one.images, janus)
            yield from _compared(f"{precision}, {one.name}", one.images, both, predicted, show)


def _random(
    geometry: str, recorded: Mapping[bool, Recording], *, images: Sequence[int], rounds: int, show: Show
) -> Iterator[Number]:
    for precision in _PRECISIONS:
        janus = random_janus(geometry, torch.device("cpu"), torch.float32)
        engine = Engine(janus, slots=max(images), quantization=_PRECISIONS[precision], release=True)
        work = Workload.of(janus)
        tokens = len(work.prompt)
        yield from _costs(precision, StepTimer(engine, _SHOWN, work.params, prompt_tokens=tokens), 2 * rounds, show)
        show(_HEADER)
        for count in images:
            timer = StepTimer(engine, _shapes({1, count}), work.params, prompt_tokens=tokens)
            for twin in (False, True):
                both = replayed_side_by_side(
                    engine, work, recorded[twin], timer, images=count, twin=twin, rounds=rounds
                )
                predicted = _predicted(both, recorded[twin], count, janus)
                name = f"{precision}, {count} images{', twins drawn before' if twin else ''}, replayed"
                yield from _compared(name, count, both, predicted, show)
        del engine, janus, work, timer
        gc.collect()


def _saturated(model: str, *, threads: int, seconds: float, rounds: int, show: Show) -> Iterator[Number]:
    """Pictures a second of an engine whose 16 slots are always taken, in processes that take turns."""
    with contextlib.ExitStack() as stack:
        plain, jacobi = (
            stack.enter_context(EngineAlone(model, PROMPT, slots=16, threads=threads, jacobi=one))
            for one in (False, True)
        )
        ratios = []
        for turn in range(rounds + 1):
            rates = {one: one.saturate(seconds) for one in (plain, jacobi)[:: -1 if turn % 2 else 1]}
            ratios.append(rates[jacobi] / rates[plain])
    show(f"\nsaturated, 16 slots: images/s ÷ those of single places {mean(ratios[1:])}")
    yield Number.of_rounds("saturated, 16 slots", ratios[1:], "ratio", "higher")


def _on_an_accelerator(recorded: Mapping[bool, Recording], show: Show) -> Iterator[Number]:
    """Predictions: roofline, at the recorded confirmation."""
    show(
        f"\npredicted, {H100.name} in bfloat16 at {H100.bandwidth / 1e12:.1f} TB/s and {H100.flops / 1e12:.0f} TFLOP/s\n"
        "                                        ms/step   codes: single ÷ Jacobi   width"
    )
    for name in ("janus-pro-1b", "janus-pro-7b"):
        for images in (1, 4, 16):
            cost = {shape: roofline(GEOMETRIES[name], H100, shape, length=_LENGTH) for shape in _shapes({1, images})}
            for twin in (False, True):
                found = predict(recorded[twin], images, cost, tokens=_TOKENS)
                label = f"{name}, {images} images{', twins drawn before' if twin else ''}"
                show(f"{label:38} {1000 * cost[images, 1]:8.2f}   {found.ratio:22.2f}×   {found.width:5}")
                yield Number(f"predicted, {H100.name}, {label}", found.ratio, "ratio", "higher")


def _shapes(images: Set[int]) -> list[Shape]:
    """Images and widths that the engine may choose."""
    return [(count, width) for count in sorted(images) for width in WIDTHS if 2 * count * width <= MOST_FED]


_SHOWN = [*_shapes({1}), *((1, width) for width in (16, 24, 32))]  # also wider windows than the engine's


def _costs(precision: str, timer: StepTimer, turns: int, show: Show) -> Iterator[Number]:
    for _ in range(turns):
        timer.turn()
    cost = timer.take()
    show(f"\n{precision}: codes fed, one image      ms   ÷ 2 codes")
    for width in (width for _, width in _SHOWN):
        seconds = cost[1, width]
        show(f"{2 * width:27}  {1000 * seconds:8.3f}   {seconds / cost[1, 1]:8.2f}×")
        yield Number(f"{precision}, step of {2 * width} codes", seconds / cost[1, 1], "ratio", "lower")


def _predicted(both: Both, recorded: Recording, images: int, janus: Janus) -> list[Prediction]:
    """Prediction for each round, from what steps took in it."""
    return [
        predict(recorded, images, cost, tokens=janus.image_tokens, own=plain.own_per_step)
        for cost, plain in zip(both.costs, both.plain, strict=True)
    ]


def _compared(name: str, images: int, both: Both, predicted: Sequence[Prediction], show: Show) -> Iterator[Number]:
    ratios = {part: both.ratios(part) for part in ("codes", "whole")}
    ways = {"single": both.plain, "Jacobi": both.jacobi}
    steps = [statistics.mean(drawn.steps for drawn in way) for way in ways.values()]
    rates = {way: [images / drawn.whole for drawn in rounds] for way, rounds in ways.items()}
    single, jacobi = (mean(rate).value for rate in rates.values())
    codes, whole = (mean(ratios[part]) for part in ("codes", "whole"))
    expected = [one.ratio for one in predicted]
    off = mean(measured / one for measured, one in zip(ratios["codes"], expected, strict=True))
    width = statistics.median_low(one.width for one in predicted)
    show(
        f"{name:46} {steps[0]:5.0f} → {steps[1]:5.1f}  {single:7.3f} → {jacobi:7.3f}  {codes!s:>15}  {whole!s:>15}  "
        f"{mean(expected)!s:>15} {width:4}  {off!s:>15}  {both.choosing:8.2%}"
    )
    for way, rate in rates.items():
        yield Number.of_rounds(f"{name}, {way}", rate, "images/s", "higher")
    for part, values in ratios.items():
        yield Number.of_rounds(f"{name}, {part}: single ÷ Jacobi", values, "ratio", "higher")
    yield Number.of_rounds(f"{name}, codes: predicted single ÷ Jacobi", expected, "ratio", "higher")
    yield Number(f"{name}, choosing widths", both.choosing, "ratio", "lower")
