"""The mathematics of GRPO against answers by hand, by enumeration, and by automatic differentiation."""

import math

import pytest
import torch
from torch import Tensor

from train.grpo.objective.advantage import group_advantages
from train.grpo.objective.credit import credit_weights, guidance_map, pair_map, shuffle_tokens
from train.grpo.objective.loss import clipped, codebook_kl, entropy, k3, policy_loss, rollout_weight
from train.grpo.objective.micro_batches import ordered, split
from train.grpo.recipe import RemedyRecipe
from train.grpo.remedies import remedy
from train.schedule import Point, scheduled

NAN = math.nan


def test_schedules_by_hand() -> None:
    points = (Point(0.1, 0.0), Point(0.3, 4.0), Point(0.7, 2.0, "cosine"))
    at = {0.0: 0.0, 0.1: 0.0, 0.2: 2.0, 0.3: 4.0, 0.4: 3.7071, 0.5: 3.0, 0.6: 2.2929, 0.7: 2.0, 1.0: 2.0}
    assert {share: scheduled(points, share) for share in at} == pytest.approx(at, abs=1e-4)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("none", [-0.5, 0.5, 0.0, 1 / 3, -2 / 3, 1 / 3]),
        # unbiased: sqrt((.25 + .25 + 0) / 2) = .5, sqrt((1 + 4 + 1) / 9 / 2) = .57735
        ("std", [-0.5 / 0.5001, 0.5 / 0.5001, 0.0, 0.33333 / 0.57745, -0.66667 / 0.57745, 0.33333 / 0.57745]),
        # of all six centred rewards, two means estimated: sqrt((.5 + 6 / 9) / 4) = .54006
        ("batch", [-0.5 / 0.54016, 0.5 / 0.54016, 0.0, 0.33333 / 0.54016, -0.66667 / 0.54016, 0.33333 / 0.54016]),
    ],
)
def test_advantages_by_hand(normalise: str, expected: list[float]) -> None:
    rewards = torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0, 1.0])
    found = group_advantages(rewards, torch.tensor([0, 0, 0, 1, 1, 1]), normalise=normalise)  # type: ignore[arg-type]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-4)
    assert found.live.tolist() == [True, True]


def test_a_pair_is_one_group_or_two() -> None:
    """The first prompt is easy and the second hard: only within the pair do their pictures differ."""
    rewards = torch.tensor([1.0, 1.0, 0.0, 0.0])
    pair = group_advantages(rewards, torch.tensor([0, 0, 0, 0]), normalise="none")
    prompts = group_advantages(rewards, torch.tensor([0, 0, 1, 1]), normalise="none")
    assert pair.values.tolist() == [0.5, 0.5, -0.5, -0.5]
    assert prompts.values.tolist() == [0.0] * 4
    assert (pair.live.tolist(), prompts.live.tolist()) == ([True], [False, False])


@pytest.mark.parametrize("normalise", ["none", "std", "batch"])
def test_a_failed_judgement_masks_its_sample_and_changes_no_other(normalise: str) -> None:
    """The other samples get the advantages they would get without it. A single judged sample of a group gets none."""
    rewards = torch.tensor([0.2, NAN, 0.9, 0.4, 0.7, NAN])
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    found = group_advantages(rewards, groups, normalise=normalise)  # type: ignore[arg-type]
    without = group_advantages(rewards[[0, 2, 3]], groups[[0, 2, 3]], normalise=normalise)  # type: ignore[arg-type]
    torch.testing.assert_close(found.values[[0, 2, 3]], without.values)
    assert found.values[[1, 4, 5]].tolist() == [0.0] * 3
    assert found.scored.tolist() == [True, False, True, True, False, False]
    assert found.live.tolist() == [True, False]


def test_equal_rewards_have_no_advantage_whatever_rounding_does() -> None:
    """The mean of three times 0.1 is not 0.1 in binary; divided by a standard deviation of 0, that would be noise."""
    for reward in (0.1, 0.7, 1 / 3):
        found = group_advantages(torch.full((7,), reward), torch.zeros(7, dtype=torch.long), normalise="std")
        assert found.values.tolist() == [0.0] * 7
        assert found.live.tolist() == [False]


def of_ratios(ratios: list[float]) -> tuple[Tensor, Tensor]:
    """New log-probabilities, with gradient, and old ones, of one token per sample."""
    new = torch.tensor([[math.log(0.1 * ratio)] for ratio in ratios], requires_grad=True)
    return new, torch.full((len(ratios), 1), math.log(0.1))


def test_the_clip_by_hand() -> None:
    """Value and gradient of −min(ρ A, clip(ρ) A) on either side of both bounds; the gradient of ρ A is ρ A."""
    ratios = [0.5, 0.9, 1.0, 1.25, 1.5, 0.5, 0.9, 1.25, 1.5]
    advantages = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, -1.0, -1.0, -1.0, -1.0])
    new, old = of_ratios(ratios)
    losses = policy_loss(new, old, advantages=advantages, credit=torch.ones(9, 1), clip_low=0.2, clip_high=0.3)
    expected = [-1.0, -1.8, -2.0, -2.5, -2.6, 0.8, 0.9, 1.25, 1.5]
    assert losses[:, 0].tolist() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(losses.sum(), new)
    assert gradient[:, 0].tolist() == pytest.approx([-1.0, -1.8, -2.0, -2.5, 0.0, 0.0, 0.9, 1.25, 1.5])
    found = clipped(new, old, advantages=advantages, clip_low=0.2, clip_high=0.3)
    assert found[:, 0].tolist() == [g == 0 for g in gradient[:, 0].tolist()]


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    """Enumerated over all codes of a policy of one token: E[−∇loss] = ∇ Σ π(y) R(y), at the first update."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, generator=generator, requires_grad=True)
    rewards = torch.rand(9, generator=generator)
    logprobs = logits.log_softmax(0)
    (expected,) = torch.autograd.grad((logprobs.exp() * rewards).sum(), logits, retain_graph=True)
    losses = policy_loss(
        logprobs[:, None],
        logprobs.detach()[:, None],
        advantages=rewards - 0.3,  # a baseline changes nothing
        credit=torch.ones(9, 1),
        clip_low=0.2,
        clip_high=0.2,
    )
    (found,) = torch.autograd.grad((logprobs.exp().detach() * losses[:, 0]).sum(), logits)
    torch.testing.assert_close(-found, expected)


def two_policies() -> tuple[Tensor, Tensor, Tensor]:
    """Logits with gradient and log-probabilities of a policy of one token, and log-probabilities of a reference."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, logits.log_softmax(0), torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(0)


def test_k3_has_the_value_of_one_kl_and_the_gradient_of_the_other() -> None:
    """Enumerated over all codes: E_π[k3] = KL(π ‖ ref), but E_π[∇k3] = ∇KL(ref ‖ π)."""
    logits, policy, reference = two_policies()
    weights = policy.exp().detach()
    estimates = k3(policy, reference)
    forward = (policy.exp() * (policy - reference)).sum()
    backward = (reference.exp() * (reference - policy)).sum()
    torch.testing.assert_close((weights * estimates).sum(), forward)
    (found,) = torch.autograd.grad((weights * estimates).sum(), logits, retain_graph=True)
    (of_backward,) = torch.autograd.grad(backward, logits, retain_graph=True)
    (of_forward,) = torch.autograd.grad(forward, logits)
    torch.testing.assert_close(found, of_backward)
    assert not torch.allclose(found, of_forward, rtol=0.1)


def test_codebook_kl_is_exact_in_value_and_gradient() -> None:
    """Against torch's kl_div; a code that a filter removed from both adds nothing, not even NaN."""
    logits, policy, reference = two_policies()
    expected = torch.nn.functional.kl_div(reference, policy, reduction="sum", log_target=True)
    (of_expected,) = torch.autograd.grad(expected, logits, retain_graph=True)
    (found,) = torch.autograd.grad(codebook_kl(policy, reference), logits)
    torch.testing.assert_close(codebook_kl(policy, reference), expected)
    torch.testing.assert_close(found, of_expected)
    kept = torch.tensor([True] * 5 + [False] * 2)
    few, few_reference = (x.masked_fill(~kept, -torch.inf).log_softmax(0) for x in (logits, reference))
    small = codebook_kl(logits[:5].log_softmax(0), reference[:5].log_softmax(0))
    torch.testing.assert_close(codebook_kl(few, few_reference), small)
    (gradient,) = torch.autograd.grad(codebook_kl(few, few_reference), logits)
    assert gradient.isfinite().all()
    torch.testing.assert_close(entropy(few), -(few[:5].exp() * few[:5]).sum())


def test_the_rollout_weight_is_the_ratio_up_to_its_limit() -> None:
    trainer = torch.tensor([[0.5, 1.0, 3.0]]).log()
    assert rollout_weight(trainer, torch.ones(1, 3).log(), limit=2.0).tolist() == [pytest.approx([0.5, 1.0, 2.0])]


def test_credit_weights_mean_one_and_follow_their_map() -> None:
    weights = credit_weights(torch.tensor([[1.0, 3.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]]))
    assert weights.tolist() == [[0.5, 1.5, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]]


def test_maps_are_differences_of_log_probabilities_at_the_sampled_codes() -> None:
    own = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0]]])  # ½ ½, ¾ ¼
    other = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])
    codes = torch.tensor([[1, 1]])
    for found in (guidance_map(own, other, codes), pair_map(own, other, codes), pair_map(other, own, codes)):
        assert found.tolist() == [pytest.approx([0.0, math.log(2.0)])]


def test_shuffled_credit_keeps_the_weights_and_loses_their_places() -> None:
    weights = torch.arange(128.0).view(2, 64)
    found = shuffle_tokens(weights, [5, 6])
    assert [sorted(row) for row in found.tolist()] == weights.tolist()
    assert (found != weights).float().mean() > 0.9
    assert not torch.equal(found[0] - weights[0, 0], found[1] - weights[1, 0])


def test_remedies_by_hand() -> None:
    recipe = RemedyRecipe(window=2, sharp=0.3, slow=0.1)
    assert remedy([0.5, 0.5, 0.5], recipe) is None  # too few
    assert remedy([0.5, 0.5, 0.45, 0.45], recipe) is None
    slow = remedy([0.4, 0.6, 0.4, 0.35], recipe)
    assert slow is not None
    assert slow.action == "refresh the reference"
    assert slow.fall == pytest.approx(0.125)
    best = remedy([0.2, 0.2, 0.6, 0.6, 0.45, 0.45], recipe)  # against the best of the windows before
    assert best is not None
    assert best.fall == pytest.approx(0.15)
    sharp = remedy([0.9, 0.9, 0.2, 0.4], recipe)
    assert sharp is not None
    assert sharp.action == "lower the rate"
    assert sharp.fall == pytest.approx(0.6)
    assert remedy([0.9, 0.9, 0.2, 0.4], RemedyRecipe(window=2)) is None  # both are off


def test_micro_batches_keep_a_prompt_together_and_are_equal_in_size() -> None:
    rows = [[1, 2, 3], [1, 2], [1, 2, 3], [1, 5], [1, 2], [1, 2, 3], [7, 7, 7, 7]]
    assert split(ordered(rows, [0, 1, 2, 3, 4, 5, 6]), 4) == [[1, 4, 3], [0, 2, 5, 6]]
    assert split(ordered(rows, [6, 0, 5]), 2) == [[0], [5, 6]]
    assert split(ordered(rows, []), 2) == []
