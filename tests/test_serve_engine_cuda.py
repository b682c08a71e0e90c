"""The engine with Triton kernels against the reference loop: on a GPU with CUDA graphs, or else in Triton's interpreter."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.cuda.micro import CODES, micro_janus
from model.attention import Rows
from model.checkpoints.load import load
from model.decoder import Decoder
from model.generate import generate
from model.janus import Janus
from model.params import SamplingParams
from model.sampler.sampler import Sampler
from model.sampler.state import SampledImage
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job, JobState
from serve.engine.windows import WindowChooser
from tests.random_windows import RandomWindows
from tests.tools import needs_kernels

pytestmark = needs_kernels
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SETTINGS = [
    SamplingParams(guidance_scale=3, temperature=0),
    SamplingParams(guidance_scale=1, temperature=0),
    SamplingParams(guidance_scale=5, temperature=1, top_k=40),
    SamplingParams(guidance_scale=2, temperature=1.3, top_k=0, top_p=0.8),
]


def check_engine(
    janus: Janus, prompts: list[list[int]], *, jobs: int, images: int, every: int, windows: WindowChooser | None
) -> None:
    """Jobs arrive every few steps, so that steps of several sizes are run, and images join and leave."""
    jobs_to_come = [Job(prompts[i % 3], None, tuple(range(i, i + images)), SETTINGS[i % 4]) for i in range(jobs)]
    engine = Engine(janus, slots=3, native=False, kernels=True)
    if windows is not None:
        engine._windows = windows
    drawn: dict[JobState, dict[int, tuple[int, ...]]] = {}
    waiting, steps = list(jobs_to_come), 0
    while waiting or not engine.idle:
        if waiting and steps % every == 0:
            drawn[engine.submit(waiting.pop(0))] = {}
        for request, event in engine.step():
            if isinstance(event, Finished):
                drawn[request][event.index] = event.codes
        steps += 1
    for request, codes in drawn.items():
        job = request.job
        expected = generate(janus, [job.prompt] * images, seeds=job.seeds, **job.params.as_dict())  # type: ignore[arg-type]
        assert [list(codes[i]) for i in range(images)] == expected.tolist()


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="the same on a GPU is tested with the golden model")
def test_each_image_equals_the_reference_loop_in_the_interpreter() -> None:
    check_engine(
        micro_janus(),
        [[1, 5, 6], [1, 9, 10, 11, 12], [1, 13]],
        jobs=5,
        images=1,
        every=2,
        windows=RandomWindows(0, widest=4),
    )


@needs_gpu
@pytest.mark.gpu
def test_each_image_equals_the_reference_loop(deepseek_folder: Path, golden: Mapping[str, Tensor]) -> None:
    """float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    janus = load(deepseek_folder, device="cuda", dtype="float32")
    prompts = [golden[f"prompt{i}.input_ids"].tolist() for i in range(3)]
    check_engine(janus, prompts, jobs=9, images=2, every=5, windows=None)
    check_engine(janus, prompts, jobs=9, images=2, every=5, windows=RandomWindows(0))


def test_a_step_of_kernels_gives_the_logits_of_pytorch() -> None:
    """Several rows of different lengths, and several places of one row; what the row held there before is not seen."""
    janus = micro_janus()
    plain, kernels = (Decoder(janus, native=False, kernels=chosen) for chosen in (False, True))
    prefixes = plain.prefill([[1, 5, 6], [1, 7, 8, 9, 10]])
    codes = torch.tensor([3, CODES - 1, 9, 11])
    logits = []
    for decoder in (plain, kernels):
        cache = decoder.cache(3, 20)
        cache.keys.fill_(torch.nan if decoder is kernels else 0)
        cache.values.fill_(torch.nan if decoder is kernels else 0)
        for row, prefix in zip((2, 0), prefixes, strict=True):
            cache.begin(row, prefix)
        rows = Rows.of([2, 0, 0, 0], [3, 5, 6, 7], torch.device("cpu"))
        logits.append(decoder.step(codes, rows, cache))
        assert rows.positions.tolist() == [4, 6, 7, 8]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)


def test_rows_that_no_image_needs_write_to_the_spare_row_only() -> None:
    from model.cuda.graphs import StepGraphs

    decoder = Decoder(micro_janus(), native=False, kernels=True)
    assert decoder.kernels is not None
    sampler = Sampler(rows=6, tokens=9, vocabulary=CODES, grid=3, device=torch.device("cpu"), kernels=True)
    cache = decoder.cache(7, 20)
    cache.keys.fill_(7)
    image = SampledImage((2,), (3,), SamplingParams(1, 0), seed=0, sampled=1)
    pair = SampledImage((4, 5), (2, 3), SamplingParams(3, 1), seed=1, sampled=4)
    batch = sampler.batch([image, pair])
    assert batch.inputs.size == 4  # type: ignore[attr-defined]
    assert StepGraphs(decoder.kernels, sampler, cache)(batch) == [1, 1]  # type: ignore[arg-type]
    written = (cache.keys != 7).any(dim=4).any(dim=2).all(dim=0).nonzero()  # [n, (row, position)]
    assert written.tolist() == [[2, 3], [4, 5], [5, 6], [6, 0]]
    assert batch.rows.positions.tolist() == [4, 6, 7, 0]


@needs_gpu
@pytest.mark.gpu
def test_no_step_waits_for_the_device(deepseek_folder: Path, golden: Mapping[str, Tensor]) -> None:
    """PyTorch's sync debug mode finds no synchronisation in steps without arrivals or finished images."""
    janus = load(deepseek_folder, device="cuda")
    engine = Engine(janus, slots=4, jacobi=False)
    engine.submit(Job(golden["prompt0.input_ids"].tolist(), None, (1, 2, 3), SETTINGS[2]))
    engine.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(janus.image_tokens - 3):
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
