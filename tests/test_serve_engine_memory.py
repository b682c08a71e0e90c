"""Memory of an engine: weights are held once, and images leave nothing behind."""

import gc
import random
import resource
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from PIL import Image
from torch import Tensor, nn

from model.checkpoints.load import load
from model.janus import Janus
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job, JobState
from serve.engine.slot import Slot
from tests.drawing import SETTINGS


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
    """300 more images with mixed settings and previews grow the process by less than 4 MiB."""
    engine = Engine(deepseek, slots=16)
    source = random.Random(0)

    def draw(images: int) -> int:
        for _ in range(images):
            params = source.choice(SETTINGS)
            engine.submit(Job(source.choice(prompts), None, (source.randrange(2**53),), params, frozenset({1}), 1e9))
        while not engine.idle:
            engine.step()
        return psutil.Process().memory_info().rss

    before = draw(100)  # fills allocators and caches
    assert draw(300) - before < 4 * 2**20


@pytest.mark.long
def test_500_images_leave_no_object_or_memory_behind(deepseek: Janus, prompts: list[list[int]]) -> None:
    """500 images leave as many tensors, jobs, slots and pictures alive as 100 do, and at most 4 MiB more memory."""
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
        draw(100)
        held.append(resident())
    assert alive() == before
    assert (engine.cache.keys.data_ptr(), engine._sampler.state.codes.data_ptr()) == allocated
    assert held[-1] <= max(held[:-1]) + 4, held
