"""Triton kernels against PyTorch's operations and the reference sampler, on a GPU or else in Triton's interpreter.

The interpreter cuts bfloat16 off where a GPU rounds to nearest, so bfloat16 is compared within two units of its last place.
"""

import math
import random
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.decoder import rotate
from model.kv_cache import FP8, KVCache, Prefix, round_to_fp8
from model.params import SamplingParams
from model.sampler.sampler import Sampler
from model.sampler.state import SampledImage
from model.sampling import filtered, guide, sample
from tests.tools import needs_kernels

pytestmark = needs_kernels
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2**-6}
TOKENS = 9


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


def close(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.float(), expected.float(), rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sums_are_stored_and_normalised(dtype: torch.dtype) -> None:
    from model.cuda.layers import add_and_normalise

    for width in (64, 200):
        x, added, weight = numbers(3, width, dtype=dtype), numbers(3, width, dtype=dtype), numbers(width, dtype=dtype)
        plain, stream = F.rms_norm(x, (width,), weight, 1e-5), x.clone()
        close(add_and_normalise(stream, None, weight, 1e-5), plain)
        assert torch.equal(stream, x)
        normal = add_and_normalise(stream, added, weight, 1e-5)
        close(stream, x + added)
        close(normal, F.rms_norm(stream, (width,), weight, 1e-5))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gates(dtype: torch.dtype) -> None:
    """More numbers than one program takes, so that there are several, and the last is not full."""
    from model.cuda.layers import gate

    gates = numbers(2, 2 * 1500, dtype=dtype) * 4
    first, second = gates.float().chunk(2, dim=-1)
    close(gate(gates), F.silu(first) * second)


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 32), (6, 2, 24), (3, 1, 16), (5, 5, 8)])
def test_rotated_heads_are_where_they_belong(heads: int, kv_heads: int, width: int) -> None:
    """Several tokens of a row, too; what is not written stays as it was."""
    from model.cuda.layers import rotate_and_write

    index, positions = torch.tensor([[2, 2, 0, 4], [7, 8, 0, 19]], device=DEVICE)
    joined = numbers(4, (heads + 2 * kv_heads) * width)
    angles = numbers(20, width // 2).repeat(1, 2)
    rotations = torch.stack([angles.cos(), angles.sin()])
    rotations[1, :, : width // 2].neg_()
    caches = torch.full((2, 2, 5, kv_heads, 20, width), math.nan, device=DEVICE)  # twice keys and values
    (keys, values), (expected_keys, expected_values) = caches
    queries = rotate_and_write(joined, rotations, index, positions, keys, values, heads=heads)
    split = joined.view(4, -1, width)
    turned = rotate(split[:, : heads + kv_heads], rotations[:, positions, None])
    expected_keys[index, :, positions] = turned[:, heads:]
    expected_values[index, :, positions] = split[:, heads + kv_heads :]
    close(queries, turned[:, :heads])
    torch.testing.assert_close(keys, expected_keys, equal_nan=True)
    torch.testing.assert_close(values, expected_values, equal_nan=True)


def test_new_keys_and_values_are_rounded_to_8_bit_floats() -> None:
    """The cache holds the same numbers and scales as for a prefix. Places that are not written keep their content.

    Numbers that need no rounding: in the interpreter, what is rounded up to a power of two becomes half of it.
    """
    from model.cuda.layers import rotate_and_write

    heads, kv_heads, width, length = 4, 2, 24, 9
    index, positions = torch.tensor([[2, 2, 0], [7, 8, 0]], device=DEVICE)
    exact = (numbers(3, heads + 2 * kv_heads, width) * 100).clamp(-448, 448).to(FP8).float()
    exact[..., 5] = 448  # scales are powers of two
    joined = (exact * 2.0 ** torch.tensor([-9, 0, 7], device=DEVICE)[:, None, None]).flatten(1)
    rotations = torch.stack([torch.ones(length, width), torch.zeros(length, width)]).to(DEVICE)  # by no angle
    kept = KVCache(layers=1, rows=4, kv_heads=kv_heads, length=length, head_dim=width, device=DEVICE, dtype=FP8)
    assert kept.scales is not None
    kept.scales.fill_(7)
    queries = rotate_and_write(
        joined, rotations, index, positions, kept.keys[0], kept.values[0], heads=heads, scales=kept.scales[:, 0]
    )
    split = joined.view(3, -1, width)
    close(queries, split[:, :heads])
    for number, own in enumerate((kept.keys[0], kept.values[0])):
        first = heads + number * kv_heads
        rounded, scales = round_to_fp8(split[:, first : first + kv_heads])
        assert torch.equal(own[index, :, positions].float(), rounded.float())
        torch.testing.assert_close(kept.scales[number, 0][index, :, positions], scales)
    assert (kept.scales == 7).sum() == 2 * kv_heads * (4 * length - 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_token_attends_to_8_bit_floats(dtype: torch.dtype) -> None:
    """In one part and in several; what lies behind is NaN. Prefixes are rounded as they are put into the cache."""
    from model.cuda.attention import attend_filled

    heads, kv_heads, width, length = 4, 2, 24, 70
    cache = KVCache(layers=1, rows=3, kv_heads=kv_heads, length=length, head_dim=width, device=DEVICE, dtype=FP8)
    assert cache.scales is not None
    cache.keys.copy_(torch.full_like(cache.keys, math.nan, dtype=torch.float32))
    cache.values.copy_(cache.keys)
    prefix = Prefix(numbers(1, kv_heads, 65, width), numbers(1, kv_heads, 65, width) * 100, numbers(5))
    cache.begin(1, prefix)
    floats = [
        own[0, 1, :, :65].float() * scales[0, 1, :, :65, None]
        for own, scales in zip((cache.keys, cache.values), cache.scales, strict=True)
    ]
    for own, exact in zip(floats, (prefix.keys[0], prefix.values[0]), strict=True):
        most = exact.abs().amax(-1, keepdim=True)
        assert ((own - exact).abs() <= (exact.abs() / 16).maximum(most / 448 * 2**-10) * 1.001).all()
    queries = numbers(1, heads, width, dtype=dtype)
    keys, values = floats
    expected = F.scaled_dot_product_attention(queries[0, :, None].float(), keys, values, enable_gqa=True)
    index, positions = torch.tensor([[1], [64]], device=DEVICE)
    for parts in (1, 3):
        found = attend_filled(
            queries, cache.keys[0], cache.values[0], index, positions, scales=cache.scales[:, 0], parts=parts
        )
        torch.testing.assert_close(found[0].float(), expected.flatten(), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("parts", [None, 1, 3])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_token_attends_to_its_row_up_to_itself(dtype: torch.dtype, parts: int | None) -> None:
    """Ragged rows, several tokens of one, grouped heads, widths that are no power of two; what lies behind is NaN."""
    from model.cuda.attention import attend_filled

    random.seed(parts)
    for heads, kv_heads, width in ((2, 2, 32), (4, 2, 24), (3, 1, 8)):
        length = random.choice([33, 70, 101])
        ends = [0, length - 1, *random.sample(range(length), 1)]
        index = torch.tensor([3, 1, 0, 0], device=DEVICE)
        positions = torch.tensor([*ends, max(0, ends[-1] - 1)], device=DEVICE)
        keys, values = numbers(2, 4, kv_heads, length, width, dtype=dtype)
        for row, position in zip(index.tolist()[:3], ends, strict=True):
            keys[row, :, position + 1 :] = values[row, :, position + 1 :] = math.nan
        queries = numbers(4, heads, width, dtype=dtype)
        attended = attend_filled(queries, keys, values, index, positions, parts=parts)
        for token, (row, position) in enumerate(zip(index.tolist(), positions.tolist(), strict=True)):
            own_keys, own_values = (kept[row, :, : position + 1].float() for kept in (keys, values))
            query = queries[token, :, None].float()
            expected = F.scaled_dot_product_attention(query, own_keys, own_values, enable_gqa=True)
            close(attended[token], expected.flatten())


SETTINGS = [
    SamplingParams(guidance, temperature, top_k, top_p)
    for guidance, temperature, top_k, top_p in [
        (5, 1, 0, 1), (1, 1, 0, 1), (5, 0, 3, 0.5), (1, 0, 0, 1), (3, 1.3, 40, 1), (2, 0.3, 5, 1), (20, 1, 1, 1),
        (1.5, 1, 0, 0.9), (5, 1.7, 0, 0.5), (1, 1, 0, 0.001), (2, 1, 10, 0.8), (5, 0.5, 10_000, 0.99), (1, 2, 69, 0.999),
    ]
]  # fmt: skip


def images_of(params: Sequence[SamplingParams]) -> list[SampledImage]:
    """An image of each, with one row or two, at various places."""
    chosen = random.Random(0)
    return [
        SampledImage(
            (2 * number, 2 * number + 1)[: 1 + one.guided],
            (3, 4)[: 1 + one.guided],
            one,
            seed=chosen.randrange(2**53),
            sampled=chosen.randrange(1, TOKENS - 1),
        )
        for number, one in enumerate(params)
    ]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("vocabulary", [70, 4099])
def test_codes_are_those_of_the_reference(vocabulary: int, ties: bool) -> None:
    """The larger vocabulary is drawn from in several blocks. Ties: logits that are whole numbers, so that many are equal.

    Also the log-probabilities, the sums, what the next step is fed, and that the places and positions are counted on.
    """
    images = images_of(SETTINGS)
    sampler = Sampler(
        rows=2 * len(images), tokens=TOKENS, vocabulary=vocabulary, grid=3, device=DEVICE, kernels=True, logprobs=True
    )
    batch = sampler.batch(images)
    logits = numbers(batch.rows.count, vocabulary) * 3
    if ties:
        logits = logits.round()
    assert batch.sample(logits) == [1] * len(images)
    batch.sample(logits)  # the next place, of the same logits
    row = 0
    for image in images:
        conditional, unconditional = logits[row], logits[row + len(image.rows) - 1]
        guided = guide(conditional, unconditional, image.params.guidance_scale)
        row += len(image.rows)
        for place in range(image.sampled, image.sampled + 2):
            expected = sample(
                guided[None],
                image.params,
                seeds=torch.tensor([image.seed], device=DEVICE),
                positions=torch.tensor([place], device=DEVICE),
            )
            assert sampler.state.codes[image.rows[0], place] == expected, (image, place)
            likely = 0.0
            if image.params.temperature > 0:
                likely = float(filtered(guided, image.params).log_softmax(-1)[expected])
            assert sampler.state.logprobs[image.rows[0], place] == pytest.approx(likely, abs=1e-5)
        fed = batch.codes[row - len(image.rows) : row]
        assert (fed == sampler.state.codes.flatten()[image.rows[0] * TOKENS + image.sampled + 1]).all()
        torch.testing.assert_close(sampler.state.sums[image.rows[0]], 2 * guided.sum(), rtol=1e-3, atol=1e-2)


def test_an_image_fails_alone() -> None:
    """A logit that is not a number makes the sum of its image so, and no other."""
    images = images_of([SamplingParams(2, 1, 5, 0.9), SamplingParams(1, 1, 0, 1), SamplingParams(3, 0, 0, 1)])
    sampler = Sampler(rows=6, tokens=TOKENS, vocabulary=50, grid=3, device=DEVICE, kernels=True)
    logits = numbers(5, 50)
    logits[1, 7] = math.nan
    sampler.batch(images).sample(logits)
    assert sampler.finite([0, 2, 4]).tolist() == [False, True, True]
    assert ((sampler.codes([0, 2, 4]) >= 0) & (sampler.codes([0, 2, 4]) < 50)).all()
