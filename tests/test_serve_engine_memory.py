"""Memory of an engine: weights are held once, and images leave nothing behind."""

import gc
import random
import resource
import weakref
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bench.cuda.micro import micro_janus
from bench.speed.geometry import geometry_config
from model.checkpoints.footprint import footprint
from model.checkpoints.load import load
from model.decoder import Decoder
from model.image_tokenizer import pictures_at_once
from model.janus import Janus
from model.params import SamplingParams
from model.quantization import Quantization
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job, JobState
from serve.engine.memory import working_memory
from serve.engine.prefixes import PrefixReader
from serve.engine.side_stream import SideStream
from serve.engine.slot import Slot
from tests.drawing import SETTINGS
from tests.tools import needs_kernels
from train.memory.ledger import Ledger
from train.memory.weightless import WeightlessJanus, without_processes
from train.ranks import ALONE


@pytest.fixture(scope="module")
def prompts(golden: Mapping[str, Tensor]) -> list[list[int]]:
    return [golden[f"prompt{i}.input_ids"].tolist() for i in range(3)]


def test_weights_are_held_once(deepseek_folder: Path) -> None:
    """Fused matrices and the network's parameters share memory, and a second engine shares it too."""

    def held(network: nn.Module) -> int:
        return sum(
            {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in network.parameters()}.values()
        )

    janus = load(deepseek_folder, device="cpu")
    before = held(janus.network)
    first = Engine(janus, slots=1, native=False).decoder
    assert held(janus.network) == before
    second = Engine(janus, slots=1, native=False).decoder
    fused = [
        [layer.qkv.data_ptr() for layer in decoder.weights.layers if isinstance(layer.qkv, Tensor)]
        for decoder in (first, second)
    ]
    assert fused[0] == fused[1]
    attention = janus.network.model.language_model.layers[0].self_attn
    assert attention.q_proj.weight.data_ptr() == fused[0][0]


def test_memory_is_allocated_once(deepseek: Janus, prompts: list[list[int]]) -> None:
    """Four times, 100 more images are drawn with mixed settings and previews. The smallest growth of the process is below 512 KiB.

    Allocators may take more now and then, but what is lost with each image is lost each time."""
    engine = Engine(deepseek, slots=16)
    source = random.Random(0)

    def draw(images: int) -> int:
        for _ in range(images):
            params = source.choice(SETTINGS)
            engine.submit(Job(source.choice(prompts), None, (source.randrange(2**53),), params, frozenset({1}), 1e9))
        while not engine.idle:
            engine.step()
        return psutil.Process().memory_info().rss

    held = [draw(100) for _ in range(5)]  # the first fills allocators and caches
    assert min(after - before for before, after in pairwise(held)) < 2**19


@pytest.mark.long
def test_300_images_leave_no_object_or_memory_behind(deepseek: Janus, prompts: list[list[int]]) -> None:
    """300 images leave as many tensors, jobs, slots and pictures alive as 100 do, and at most 4 MiB more memory."""
    engine = Engine(deepseek, slots=16)
    allocated = engine.cache.keys.data_ptr(), engine._sampler.state.codes.data_ptr()

    def draw(count: int) -> None:
        for start in range(0, count, 4):
            engine.submit(Job(prompts[0], None, tuple(range(start, start + 4)), SETTINGS[3]))
        finished = 0
        while not engine.idle:
            finished += sum(isinstance(event, Finished) for _, event in engine.step())
        assert finished == count

    def alive() -> Counter[type]:
        gc.collect()
        kinds = Tensor | JobState | Slot | Image.Image
        return Counter(type(thing) for thing in gc.get_objects() if issubclass(type(thing), kinds))

    def resident() -> int:
        """Resident memory of this process, in MiB."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

    draw(100)
    before, held = alive(), [resident()]
    for _ in range(4):
        draw(52)
        held.append(resident())
    assert alive() == before
    assert (engine.cache.keys.data_ptr(), engine._sampler.state.codes.data_ptr()) == allocated
    assert held[-1] <= max(held[:-1]) + 4, held


def test_reading_prompts_takes_twice_their_keys_and_values(tmp_path: Path) -> None:
    """Counted for a 7B on tensors without memory: 34 prompts of 30 tokens take a gibibyte at most, and so do 340."""
    geometry_config("janus-pro-7b").save_pretrained(tmp_path)
    janus = WeightlessJanus.of("7b", tmp_path, torch.bfloat16)
    with without_processes(ALONE), janus.mode:
        reader = PrefixReader(Decoder(janus, native=False), janus.ids, SideStream())
        peaks = []
        for count in (34, 340):
            jobs = [Job([1, *[5 + number] * 28, 2], None, (0,), SamplingParams(1)) for number in range(count)]
            states = [JobState(job) for job in jobs]
            with Ledger(lambda _: "all") as ledger:
                for state in states:
                    reader.begin(states, states)
                    assert reader.ready(state, wait=False)
            kept = sum(prefix.nbytes for state in states for prefix in state.prefixes or ())
            peaks.append((ledger.peak["all"] - kept) / 2**30)
    assert kept / 2**30 == pytest.approx(340 * 30 * 30 * 2 * 4096 * 2 / 2**30, rel=0.01)
    assert max(peaks) < 1.1  # beyond what is kept: keys and values of 1024 tokens once more, and one layer's numbers


def test_unconditional_prefixes_are_bounded_in_bytes(deepseek: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest used ones are kept."""
    reader = PrefixReader(Decoder(deepseek), deepseek.ids, SideStream())

    def read(length: int) -> JobState:
        state = JobState(Job([1, *[5] * (length - 2), 2], None, (0,), SamplingParams(3)))
        reader.begin([state], [])
        assert reader.ready(state, wait=False)
        return state

    kept = {length: prefix.nbytes for length in (4, 5, 6) for prefix in (read(length).prefixes or ())[1:]}
    reader.clear()
    monkeypatch.setattr("serve.engine.prefixes.UNCONDITIONAL_BYTES", kept[4] + kept[6])
    for length in (4, 5, 4, 6):
        read(length)
    assert [len(row) for row in reader._unconditional] == [4, 6]
    monkeypatch.setattr("serve.engine.prefixes.UNCONDITIONAL_BYTES", 1)
    read(5)
    assert [len(row) for row in reader._unconditional] == [5]  # of the job that is drawn now


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA normalises groups with the channels first, and cuDNN convolves with the channels last: what is otherwise is copied."""
    convolve, normalise = F.conv2d, F.group_norm

    def conv2d(x: Tensor, *rest: Any) -> Tensor:
        return convolve(x.contiguous(memory_format=torch.channels_last), *rest)

    def group_norm(x: Tensor, *rest: Any) -> Tensor:
        return normalise(x.contiguous(), *rest)

    monkeypatch.setattr(F, "conv2d", conv2d)
    monkeypatch.setattr(F, "group_norm", group_norm)


@pytest.mark.parametrize(
    ("geometry", "dtype", "quantization"),
    [
        ("janus-pro-7b", torch.bfloat16, None),
        ("janus-pro-1b", torch.float32, None),
        ("janus-pro-7b", torch.bfloat16, "int8"),
    ],
)
def test_working_memory_of_a_gpu_is_foretold(
    geometry: str, dtype: torch.dtype, quantization: Quantization | None, tmp_path: Path, as_on_a_gpu: None
) -> None:
    """Counted on tensors without memory, within a tenth: reading as many tokens as are read at once, and decoding pictures."""
    config = geometry_config(geometry)
    config.save_pretrained(tmp_path)
    gpu = torch.device("cuda")
    foretold = working_memory(config, dtype, gpu, quantization=quantization)
    janus = WeightlessJanus.of("model", tmp_path, dtype)
    codes = torch.zeros(pictures_at_once(janus.image_size, gpu), janus.image_tokens, dtype=torch.int64)
    with without_processes(ALONE), janus.mode:
        decoder = Decoder(janus, native=False, quantization=quantization)
        with Ledger(lambda _: "all") as reading:
            prefixes = decoder.prefill([[1] * 256, [1] * 255, [1] * 254, [1] * 253])
        with Ledger(lambda _: "all") as decoding, torch.no_grad():
            janus.network.model.vqmodel.decode(codes)
    assert foretold.prompts == pytest.approx(reading.peak["all"], rel=0.1)
    assert foretold.pictures == pytest.approx(decoding.peak["all"], rel=0.1)
    token = prefixes[0].keys.nbytes * 2 // 256
    assert foretold.prefixes == 2**29 + (512 + 1024) * token
    assert foretold.spare == token * (janus.max_prompt_tokens + janus.image_tokens)


@pytest.mark.parametrize(("images", "card"), [(64, 80), (16, 40), (4, 24)])
def test_a_7b_fits(images: int, card: int) -> None:
    """In so many GB, with half a GB that the driver keeps for itself."""
    config, gpu = geometry_config("janus-pro-7b"), torch.device("cuda")
    needs = footprint(config, torch.bfloat16, gpu).total(images) + working_memory(config, torch.bfloat16, gpu).total
    assert 0.7 * card < needs / 1e9 < card - 0.5


@needs_kernels
@pytest.mark.parametrize("kernels", [False, True])
def test_an_engine_that_is_dropped_frees_its_memory_at_once(kernels: bool) -> None:
    """Nothing that it consists of refers back to it: the next engine may need all of a GPU."""
    janus = micro_janus()
    gc.collect()
    gc.disable()
    try:
        engine = Engine(janus, slots=2, native=not kernels, kernels=kernels)
        list(draw(engine, [Job([1, 5, 6], None, (0, 1), SETTINGS[0])]))
        kept = [weakref.ref(one) for one in (engine, engine.decoder, engine.cache, engine._sampler.state.codes)]
        del engine
        assert [one() for one in kept] == [None] * len(kept)
    finally:
        gc.enable()
