"""The speed benchmark: its stopwatch, baseline loops, workloads and report."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.speed.baselines import with_a_growing_cache, with_transformers
from bench.speed.engine import Workload, poisson, profile
from bench.speed.engine_report import report
from bench.speed.enlarging import report as enlarging_report
from bench.speed.geometry import random_janus
from bench.speed.paircomp_run import report as paircomp_report
from bench.speed.stopwatch import Stopwatch
from model.cpu.library import native_library
from model.generate import generate
from model.janus import Janus
from model.params import SamplingParams
from tests.upscaler_weights import compact


class Clockwork:
    """A clock that its own two nested parts move: the outer one by 2 s, the inner one by 3 s."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def outer(self) -> None:
        self.seconds += 2
        self.inner()

    def inner(self) -> None:
        self.seconds += 3


def test_a_stopwatch_counts_the_inner_part_once(monkeypatch: pytest.MonkeyPatch) -> None:
    work, stopwatch = Clockwork(), Stopwatch()
    monkeypatch.setattr("time.perf_counter", lambda: work.seconds)
    with stopwatch.timing(outer=(work, "outer"), inner=(work, "inner")):
        work.outer()
    work.outer()  # no longer timed
    assert stopwatch.seconds == {"outer": 2, "inner": 3}
    assert "outer" not in vars(work)


def test_baseline_loops_draw_the_greedy_codes_of_the_reference(deepseek: Janus) -> None:
    """At temperature 1e-4 sampling is practically greedy, so both loops give the reference loop's greedy codes."""
    prompt = [1, 10, 11, 12, 3]
    cold = SamplingParams(guidance_scale=3, temperature=1e-4, top_k=0)
    expected = generate(deepseek, [prompt], seeds=[0], guidance_scale=3, temperature=0)[0].tolist()
    for draw in (with_transformers, with_a_growing_cache):
        codes = draw(deepseek, prompt, [0, 1], cold)
        assert codes.tolist() == [expected, expected], draw


def test_a_random_model_has_the_published_geometry() -> None:
    janus = random_janus("12x768", torch.device("cpu"), torch.float32)
    assert (janus.grid, janus.image_size, janus.codebook_size) == (24, 384, 16384)
    blocks = sum(p.numel() for p in janus.network.model.language_model.layers.parameters())
    assert blocks == 12 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768)
    with pytest.raises(ValueError, match="no geometry '7b'; known: janus-pro-7b"):
        random_janus("7b", torch.device("cpu"), torch.float32)


def test_times_of_random_arrivals_and_of_engine_parts_are_plausible(deepseek: Janus) -> None:
    work = Workload(deepseek, [1, 10, 11, 12, 3], SamplingParams(guidance_scale=2, top_k=0))
    load = poisson(work, slots=3, arrivals=8, per_second=100)
    assert 0 < load.p50 <= load.p95
    last_comes = np.random.default_rng(0).exponential(1 / 100, 8)[1:].sum()
    assert load.rate < 8 / last_comes  # no image is done before it arrives
    parts = profile(work, 2)
    assert set(parts) == {"prefill", "step", "sample", "pixels", "own", "png"}
    assert min(parts.values()) > 0


def test_the_report_names_its_conditions(small_folder: object) -> None:
    before = torch.get_num_threads()
    lines: list[str] = []
    found = report(
        model=str(small_folder), geometry=None, device="cpu", threads=1, batches=[1, 2], rounds=1, arrivals=3,
        baselines_up_to=1, show=lines.append,
    )  # fmt: skip
    torch.set_num_threads(before)
    numbers = {number.name for number in found.numbers}
    compiled = {"int8", "single places"} if native_library() else set()
    own = {"engine", "no compiler"} | compiled
    assert {f"{name}, 2 together" for name in own} <= numbers
    assert {f"{name}, 1 together" for name in own | {"transformers", "growing cache"}} <= numbers
    assert "transformers, 2 together" not in numbers
    assert ("single places ÷ engine, 2 together" in numbers) == bool(compiled)
    assert {"commit", "command", "device", "dtype", "threads", "processor"} <= set(found.provenance)
    assert "3 of   3" in lines[-2]  # previews


def test_a_run_of_paircomp_is_timed_beside_the_engine_alone(small_folder: Path, tmp_path: Path) -> None:
    before, file = torch.get_num_threads(), tmp_path / "PairComp.json"
    file.write_text(json.dumps([{"category": "Color difference", "caption1": "a red star", "caption2": "a blue star"}]))
    found = paircomp_report(
        str(small_folder),
        prompts=file,
        judges=["free", "exact"],
        threads=[1],
        slots=4,
        rounds=2,
        show=lambda _: None,
    )
    torch.set_num_threads(before)
    assert [(one.name, one.unit, one.count) for one in found.numbers] == [
        ("1 threads, engine alone", "images/s", 2),
        ("1 threads, free judge", "ratio", 2),
        ("1 threads, exact judge", "ratio", 2),
    ]
    assert min(one.value for one in found.numbers) > 0


def test_an_engine_is_timed_while_the_upscaler_works(small_folder: Path, tmp_path: Path) -> None:
    torch.save(compact(), tmp_path / "repeating.pth")
    measure = partial(
        enlarging_report, str(small_folder), network=tmp_path / "repeating.pth", threads=[1], slots=2, seconds=1, times=2,
        show=lambda _: None,
    )  # fmt: skip
    found = {number.name: number for number in measure(side=128).numbers}
    assert [number.unit for number in found.values()] == ["images/s", "images/s", "ratio", "s"]
    assert min(number.value for number in found.values()) > 0
    with pytest.raises(ValueError, match="--side: 64 pixels are no more than the model's 64"):
        measure(side=64)


@pytest.mark.parametrize(("change", "said"), [({"threads": 0}, "--threads"), ({"batches": [0]}, "--images")])
def test_bad_settings_are_named(change: dict[str, object], said: str) -> None:
    settings = {"model": None, "geometry": None, "device": "cpu", "threads": 1, "batches": [1], "rounds": 1}
    with pytest.raises(ValueError, match=said):
        report(**settings | {"arrivals": 0, "baselines_up_to": 0, "show": print} | change)  # type: ignore[arg-type]
