"""The batched sampler: each image, with its own settings, gets the codes that it would get alone."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.noise import gumbel
from model.params import MAX_SEED, SamplingParams
from model.sampler.sampler import Sampler
from model.sampler.state import SampledImage
from model.sampling import filtered, guide, sample
from tests.tools import needs_compiler

CPU = torch.device("cpu")
SEEDS = [0, 2**32 - 1, 2**40 + 7, MAX_SEED, 2**32]
ways = pytest.mark.parametrize(
    "native",
    [
        pytest.param(True, marks=needs_compiler),
        False,
    ],
)


def logits_of(params: Sequence[SamplingParams], vocabulary: int, *, seed: int, step: float) -> Tensor:
    """Random logits, one row per image or two if guided; rounded to multiples of `step` for ties, unless it is 0."""
    rows = sum(1 + one.guided for one in params)
    logits = 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))
    return logits.div(step).round().mul(step) if step else logits


def alone(logits: Tensor, params: Sequence[SamplingParams], position: int) -> list[int]:
    """Expected codes: `sample`, the reference, applied to each image by itself."""
    chosen, row = [], 0
    for seed, one in zip(SEEDS, params, strict=False):
        guided = logits[row : row + 1]
        if one.guided:
            guided = guide(guided, logits[row + 1 : row + 2], one.guidance_scale)
        code = sample(guided, one, seeds=torch.tensor([seed]), positions=torch.tensor([position]))
        chosen.append(int(code))
        row += 1 + one.guided
    return chosen


def images_of(params: Sequence[SamplingParams]) -> list[SampledImage]:
    """Images in reverse order of rows, with prompts of three and five tokens."""
    rows = range(2 * len(params) - 2, -2, -2)
    return [
        SampledImage((row, row + 1)[: 1 + one.guided], (3, 5)[: 1 + one.guided], one, seed)
        for row, one, seed in zip(rows, params, SEEDS, strict=False)
    ]


def sampled(sampler: Sampler, steps: Sequence[Tensor], params: Sequence[SamplingParams]) -> list[list[int]]:
    """Codes [steps][images] of the batched sampler, one code in each step."""
    images = images_of(params)
    rows = [image.rows[0] for image in images]
    sampler.begin(rows)
    batch = sampler.batch(images)
    for position, logits in enumerate(steps):
        assert list(batch.sample(logits)) == [1] * len(images)
        latest = sampler.codes(rows)[:, position].tolist()
        if position + 1 < sampler.tokens:
            assert batch.rows.count == len(logits)
            assert batch.codes[: len(logits)].tolist() == [
                code for code, image in zip(latest, images, strict=True) for _ in image.rows
            ]
            assert batch.rows.index[: len(logits)].tolist() == [row for image in images for row in image.rows]
            assert batch.rows.positions[: len(logits)].tolist() == [
                length + position for image in images for length in image.prompt_lengths
            ]
    return sampler.codes(rows)[:, : len(steps)].T.tolist()


one_image = st.builds(
    SamplingParams,
    guidance_scale=st.sampled_from([1.0, 1.0, 2.0, 5.0, 7.3]),
    temperature=st.sampled_from([0.0, 0.5, 0.7, 1.0, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 300, 4096]),
    top_p=st.sampled_from([1e-6, 0.05, 0.5, 0.9, 0.999, 1.0, 1.0]),
)


@ways
@settings(max_examples=150, deadline=None)
@given(
    params=st.lists(one_image, min_size=1, max_size=5),
    vocabulary=st.sampled_from([1, 2, 15, 16, 17, 63, 512, 1283]),
    seed=st.integers(0, 1000),
    step=st.sampled_from([0, 0, 0.5, 1, 4, 1000]),
)
def test_each_image_gets_the_codes_it_would_get_alone(
    native: bool, params: list[SamplingParams], vocabulary: int, seed: int, step: float
) -> None:
    sampler = Sampler(rows=10, tokens=4, vocabulary=vocabulary, grid=2, device=CPU, native=native)
    steps = [logits_of(params, vocabulary, seed=seed + position, step=step) for position in range(3)]
    expected = [alone(logits, params, position) for position, logits in enumerate(steps)]
    assert sampled(sampler, steps, params) == expected


@ways
@pytest.mark.parametrize("top_k", [0, 1, 4096, 16383])
@pytest.mark.parametrize("top_p", [0.001, 0.9, 1.0])
def test_a_codebook_of_16384_codes(native: bool, top_k: int, top_p: float) -> None:
    """Twenty positions, so that the precomputed noise runs out more than once."""
    params = [SamplingParams(guidance_scale=g, temperature=0.8, top_k=top_k, top_p=top_p) for g in (1, 5, 2)]
    sampler = Sampler(rows=6, tokens=20, vocabulary=16384, grid=5, device=CPU, native=native)
    steps = [logits_of(params, 16384, seed=position, step=0) for position in range(20)]
    assert sampled(sampler, steps, params) == [alone(logits, params, position) for position, logits in enumerate(steps)]


@ways
@settings(max_examples=60, deadline=None)
@given(
    params=st.lists(one_image, min_size=1, max_size=4),
    vocabulary=st.sampled_from([1, 2, 17, 512, 1283]),
    step=st.sampled_from([0, 0, 0.5, 4]),
)
def test_logprobs_are_those_of_the_distribution_that_was_sampled(
    native: bool, params: list[SamplingParams], vocabulary: int, step: float
) -> None:
    """Against a plain sum of exponentials in float64, over the codes that the reference filters keep."""
    sampler = Sampler(rows=10, tokens=4, vocabulary=vocabulary, grid=2, device=CPU, native=native, logprobs=True)
    steps = [logits_of(params, vocabulary, seed=position, step=step) for position in range(3)]
    codes = sampled(sampler, steps, params)
    rows = [image.rows[0] for image in images_of(params)]
    for position, logits in enumerate(steps):
        first = 0
        for image, one in enumerate(params):
            guided = guide(logits[first], logits[first + one.guided], one.guidance_scale)
            first += 1 + one.guided
            expected = 0.0
            if one.temperature > 0:
                weights = filtered(guided, one).double().exp()
                expected = float((weights[codes[position][image]] / weights.sum()).log())
            assert float(sampler.logprobs(rows)[image, position]) == pytest.approx(expected, abs=2e-5)


@ways
@pytest.mark.parametrize("planted", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_a_logit_that_is_not_finite_marks_its_own_image_only(native: bool, planted: float, row: int) -> None:
    params = [SamplingParams(guidance_scale=3, top_k=4, top_p=0.9), SamplingParams(guidance_scale=3)]
    sampler = Sampler(rows=4, tokens=2, vocabulary=40, grid=1, device=CPU, native=native)
    healthy = [logits_of(params, 40, seed=position, step=0) for position in range(2)]
    ill = [logits.clone() for logits in healthy]
    ill[0][row, 7] = planted
    codes = sampled(sampler, ill, params)
    assert sampler.finite([2, 0]).tolist() == [False, True]  # the first image is in the last rows
    assert all(0 <= code < 40 for step in codes for code in step)
    assert [step[1] for step in codes] == [step[1] for step in sampled(sampler, healthy, params)]
    assert sampler.finite([0, 2]).tolist() == [True, True]  # other images have begun in these rows


@ways
def test_guidance_rounds_twice_like_the_reference(native: bool) -> None:
    """Code 1's logits equal the guided logit of code 0, rounded twice: the two tie, and code 0 wins.

    Rounded only once, half of the pairs would not tie.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(64, 2, generator=generator)
    params = [SamplingParams(guidance_scale=3.3, temperature=0)]
    codes = []
    for pair in pairs:
        rounded = guide(pair[0], pair[1], 3.3)
        sampler = Sampler(rows=2, tokens=1, vocabulary=2, grid=1, device=CPU, native=native)
        codes += sampled(sampler, [torch.stack([pair, rounded.expand(2)], 1)], params)
    assert codes == [[0]] * 64


@ways
@pytest.mark.parametrize(
    ("logits", "params", "kept"),
    [
        ([1, 1, 1, 1], SamplingParams(top_k=0, top_p=0.5), {0, 1}),  # the first two reach 0.5, so the third is dropped
        ([1, 1, 1, 1], SamplingParams(top_k=0, top_p=0.51), {0, 1, 2}),
        ([0] * 10, SamplingParams(top_k=0, top_p=0.9), set(range(10))),  # 9 · 0.1 < 0.9 in float64
        ([1, 1, 1, 1], SamplingParams(top_k=2), {0, 1, 2, 3}),  # all equal the second largest
        ([-0.0, 0.0], SamplingParams(top_k=0, top_p=0.4), {0}),  # -0.0 equals 0.0, so the lower code comes first
        ([0.0, 1.0, 1.0, 2.0], SamplingParams(top_k=2), {1, 2, 3}),
        ([0.0, 1.0, 1.0, 1.0], SamplingParams(top_k=2, top_p=0.6), {1, 2}),  # a third each after top-k
    ],
)
def test_top_k_and_top_p_with_equal_logits(
    native: bool, logits: list[float], params: SamplingParams, kept: set[int]
) -> None:
    sampler = Sampler(rows=2, tokens=120, vocabulary=len(logits), grid=10, device=CPU, native=native)
    codes = sampled(sampler, [torch.tensor([logits, logits], dtype=torch.float32)] * 120, [params])
    assert {code for step in codes for code in step} == kept


@ways
@pytest.mark.parametrize("apart", [1e-6, 1e-5, 1e-4])
def test_near_ties_are_decided_as_in_the_reference(native: bool, apart: float) -> None:
    """The codes with the most and the least noise get logits that cancel the noise up to `apart` at each position."""
    params, positions, vocabulary = [SamplingParams(guidance_scale=1, top_k=0)], 200, 16384
    noise = gumbel(torch.zeros(positions, dtype=torch.int64), torch.arange(positions), vocabulary)
    most, least = noise.argmax(1, keepdim=True), noise.argmin(1, keepdim=True)
    nearly = torch.linspace(-apart, apart, positions)[:, None]
    logits = torch.full((positions, vocabulary), -50.0)
    logits.scatter_(1, most, -noise.gather(1, most)).scatter_(1, least, nearly - noise.gather(1, least))
    sampler = Sampler(rows=2, tokens=positions, vocabulary=vocabulary, grid=10, device=CPU, native=native)
    expected = [alone(logits[i : i + 1], params, i) for i in range(positions)]
    assert 0.2 < sum([code] == most[i].tolist() for i, (code,) in enumerate(expected)) / positions < 0.8
    assert sampled(sampler, list(logits[:, None]), params) == expected
