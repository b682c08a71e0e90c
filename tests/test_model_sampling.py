"""Noise, filters and guidance against known answers and independent arithmetic."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.noise import gumbel, philox4x32
from model.params import MAX_SEED, SamplingParams, resolve_seeds
from model.sampling import filtered, guide, keep_top_k, keep_top_p, sample


def words(*values: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(value, dtype=torch.int64) for value in values)


# Random123's known answers for philox4x32, 10 rounds (kat_vectors)
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, ...], expected: str) -> None:
    found = philox4x32(words(*counter), words(*key))  # type: ignore[arg-type]
    assert [f"{int(word):08x}" for word in found] == expected.split()


def test_noise_uses_the_documented_counter_and_word() -> None:
    seed, position, vocabulary, code = 2**40 + 17, 5, 10, 9
    noise = gumbel(torch.tensor([seed]), torch.tensor([position]), vocabulary)[0, code]
    counter = position * math.ceil(vocabulary / 4) + code // 4
    word = int(philox4x32(words(counter, 0, 0, 0), words(seed % 2**32, seed // 2**32))[code % 4])  # type: ignore[arg-type]
    expected = -math.log(-math.log1p(-(word + 0.5) / 2**32))
    assert float(noise) == pytest.approx(expected, rel=1e-5)


def test_noise_depends_on_nothing_but_seed_and_position() -> None:
    seeds, positions = torch.tensor([3, 2**53 - 1, 3]), torch.tensor([0, 63, 1])
    together = gumbel(seeds, positions, 511)
    for i in range(3):
        assert torch.equal(together[i], gumbel(seeds[i : i + 1], positions[i : i + 1], 511)[0])
    assert not torch.equal(together[0], together[2])


def test_noise_of_the_largest_words_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """These words round to 1 in float32; noise of −∞ would make the only kept code tie with the filtered ones."""
    largest, smallest = (torch.full((1, 2, 4), word, dtype=torch.int64) for word in (2**32 - 1, 2**32 - 257))
    for words in (largest, smallest):
        monkeypatch.setattr("model.noise.philox4x32", lambda *_, words=words: words)
        noise = gumbel(torch.tensor([1]), torch.tensor([0]), 8)
        assert torch.isfinite(noise).all()
        assert (noise < -2.5).all()


def test_noise_is_standard_gumbel() -> None:
    noise = gumbel(torch.arange(64), torch.zeros(64, dtype=torch.int64), 4096).flatten().double()
    assert torch.isfinite(noise).all()
    # mean is Euler's constant, variance π²/6; the bounds are five standard errors
    assert abs(noise.mean() - 0.5772) < 5 * (math.pi / math.sqrt(6)) / math.sqrt(noise.numel())
    assert abs(noise.var() - math.pi**2 / 6) < 0.03


def test_sampling_follows_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    n = 20_000
    params = SamplingParams(guidance_scale=1, temperature=0.7, top_k=3)
    drawn = sample(logits.expand(n, 4), params, seeds=torch.arange(n), positions=torch.zeros(n, dtype=torch.int64))
    expected = torch.tensor([2.0, 1.0, 0.0]).div(0.7).softmax(0)
    shares = torch.bincount(drawn, minlength=4) / n
    assert shares[3] == 0
    assert (shares[:3] - expected).abs().max() < 5 * 0.5 / math.sqrt(n)


def test_temperature_zero_is_greedy_and_ties_go_to_the_lowest_code() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    seed = torch.tensor([1])
    assert sample(logits, SamplingParams(temperature=0), seeds=seed, positions=torch.tensor([0])).tolist() == [1]


def test_guidance_formula() -> None:
    conditional, unconditional = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    assert guide(conditional, unconditional, 5).tolist() == [0.5 + 5 * 0.5, 3 + 5 * -1.0]
    assert torch.equal(guide(conditional, unconditional, 1), conditional)


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=12), st.integers(0, 14))
def test_top_k_keeps_values_not_below_the_kth_largest(values: list[int], k: int) -> None:
    kept = keep_top_k(torch.tensor(values, dtype=torch.float), k)
    bound = sorted(values, reverse=True)[k - 1] if 0 < k < len(values) else min(values)
    assert [v if v >= bound else -math.inf for v in values] == kept.tolist()


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=10, unique=True), st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p(values: list[int], p: float) -> None:
    logits = torch.tensor(values, dtype=torch.double)
    kept = [v for v in keep_top_p(logits, p).tolist() if v != -math.inf]
    probability = {v: float(q) for v, q in zip(values, logits.softmax(0), strict=True)}
    expected, reached = [], 0.0
    for value in sorted(values, reverse=True):
        if reached >= p - 1e-12:
            break
        expected.append(value)
        reached += probability[value]
    assert sorted(kept, reverse=True) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guidance_scale", 0.9), ("guidance_scale", 20.1), ("guidance_scale", float("nan")), ("temperature", -0.1),
        ("temperature", 2.1), ("top_k", -1), ("top_k", 1.5), ("top_k", True), ("top_p", 0.0), ("top_p", 1.01),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named_in_the_error(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        SamplingParams().override(**{field: value})


def test_seeds() -> None:
    assert resolve_seeds(7, 3) == [7, 8, 9]
    assert resolve_seeds([5, 5], 2) == [5, 5]
    drawn = resolve_seeds(None, 4)
    assert len(set(drawn)) == 4
    assert all(0 <= seed <= MAX_SEED for seed in drawn)
    for bad in (-1, MAX_SEED + 1, [1]):
        with pytest.raises(ValueError, match="seed"):
            resolve_seeds(bad, 2)
    with pytest.raises(ValueError, match="seed"):
        resolve_seeds(MAX_SEED, 2)  # the second image would have no seed


def test_top_k_comes_before_top_p() -> None:
    """Probabilities 0.5, 0.3, 0.2: only after top-k 2, which makes it 0.625, does the first reach top-p 0.6 alone."""
    params = SamplingParams(top_k=2, top_p=0.6)
    kept = filtered(torch.tensor([0.5, 0.3, 0.2]).log(), params) > -math.inf
    assert kept.tolist() == [True, False, False]
