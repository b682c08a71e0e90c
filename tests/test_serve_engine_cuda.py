"""The engine on a GPU, with CUDA graphs and the Triton kernel, against the reference loop on the same GPU."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.attention import Rows
from model.checkpoints.load import load
from model.generate import generate
from model.params import SamplingParams
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job, JobState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SETTINGS = [
    SamplingParams(guidance_scale=3, temperature=0),
    SamplingParams(guidance_scale=1, temperature=0),
    SamplingParams(guidance_scale=5, temperature=1, top_k=40),
    SamplingParams(guidance_scale=2, temperature=1.3, top_k=0, top_p=0.8),
]


def test_each_image_equals_the_reference_loop(deepseek_folder: Path, golden: Mapping[str, Tensor]) -> None:
    """float32; jobs arrive every five steps, so that graphs of several sizes are replayed."""
    torch.backends.cuda.matmul.allow_tf32 = False
    janus = load(deepseek_folder, device="cuda", dtype="float32")
    prompts = [golden[f"prompt{i}.input_ids"].tolist() for i in range(3)]
    jobs = [Job(prompts[i % 3], None, (i, i + 50), SETTINGS[i % 4]) for i in range(9)]
    engine = Engine(janus, slots=5)
    drawn: dict[JobState, dict[int, tuple[int, ...]]] = {}
    waiting, steps = list(jobs), 0
    while waiting or not engine.idle:
        if waiting and steps % 5 == 0:
            drawn[engine.submit(waiting.pop(0))] = {}
        for request, event in engine.step():
            if isinstance(event, Finished):
                drawn[request][event.index] = event.codes
        steps += 1
    for request, codes in drawn.items():
        job = request.job
        expected = generate(janus, [job.prompt] * 2, seeds=job.seeds, **job.params.as_dict())  # type: ignore[arg-type]
        assert [list(codes[i]) for i in range(2)] == expected.tolist()


def test_a_graph_gives_the_logits_of_a_plain_step(deepseek_folder: Path, golden: Mapping[str, Tensor]) -> None:
    """bfloat16, for 1 to 12 rows."""
    janus = load(deepseek_folder, device="cuda", dtype="bfloat16")
    decoder = Engine(janus, slots=1).decoder
    plain, captured = decoder.cache(12, 60), decoder.cache(13, 60)
    decoder.capture(captured)
    prefix = decoder.prefill([golden["prompt0.input_ids"].tolist()])[0]
    for row in range(12):
        plain.begin(row, prefix)
        captured.begin(row, prefix)
    for count in range(1, 13):
        codes = torch.arange(count, device=janus.device)
        expected, replayed = (
            decoder.step(codes, Rows.of(range(count), [prefix.length] * count, janus.device), cache)
            for cache in (plain, captured)
        )
        torch.testing.assert_close(replayed, expected, rtol=0.02, atol=0.02)


def test_no_step_waits_for_the_device(deepseek_folder: Path, golden: Mapping[str, Tensor]) -> None:
    """PyTorch's sync debug mode finds no synchronisation in steps without arrivals or finished images."""
    janus = load(deepseek_folder, device="cuda")
    engine = Engine(janus, slots=4)
    engine.submit(Job(golden["prompt0.input_ids"].tolist(), None, (1, 2, 3), SETTINGS[2]))
    engine.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(janus.image_tokens - 3):
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
