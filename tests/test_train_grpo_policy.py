"""The policy that is trained is the one that is sampled, and the gradient is that of the whole objective."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.checkpoints.load import load
from model.janus import Janus
from model.likelihood import image_logits
from model.params import SamplingParams
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job
from train.grpo.metrics import Means
from train.grpo.objective.advantage import Advantages
from train.grpo.objective.attention_map import attention_map, content_tokens
from train.grpo.objective.objective import Objective
from train.grpo.objective.old_policy import OldPolicy
from train.grpo.objective.policy import PromptTable, Scores, score
from train.grpo.recipe import GRPORecipe
from train.grpo.rollout.plan import GroundTruth, PairPlan
from train.grpo.rollout.samples import Samples
from train.ranks import ALONE
from train.weights.image_logits import ImageLogits
from train.weights.parameters import decoder_parameters, unfreeze_decoder
from train.weights.recipe import WeightsRecipe
from train.weights.reference import CopyReference, Reference
from train.weights.shared import SharedWeights

PROMPTS = ("a red circle", "two green squares at night", "a red circle")


@pytest.fixture
def janus(small_folder: Path) -> Janus:
    """The small model, its own in every test; parameters of the decoder have gradients."""
    janus = load(small_folder, device="cpu")
    unfreeze_decoder(janus.network)
    return janus


def drawn(janus: Janus, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Codes, and log-probabilities by the engine, of one picture of each prompt: [3, tokens] each."""
    engine = Engine(janus, slots=3, logprobs=True)
    jobs = {Job(janus.encode(prompt), None, (seed,), params): seed for seed, prompt in enumerate(PROMPTS)}
    found = {jobs[job]: event for job, event in draw(engine, jobs) if isinstance(event, Finished)}
    return (
        torch.tensor([found[i].codes for i in range(3)]),
        torch.tensor([found[i].logprobs for i in range(3)]),
    )


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(1.0, 1.0, 0, 1.0),
        SamplingParams(2.0, 1.0, 0, 1.0),
        SamplingParams(5.0, 0.7, 0, 1.0),
        SamplingParams(3.0, 1.3, 20, 1.0),
        SamplingParams(2.0, 1.0, 0, 0.9),
        SamplingParams(4.0, 0.8, 30, 0.8),
    ],
    ids=str,
)
def test_the_scored_distribution_is_the_sampled_one(janus: Janus, params: SamplingParams) -> None:
    """The engine says at every step how likely the code it took was; the trainer finds the same in one pass."""
    codes, sampled = drawn(janus, params)
    table = PromptTable.of([janus.encode(prompt) for prompt in PROMPTS], janus.ids, janus.device)
    assert len(table.ids) == 4  # two prompts, and unconditional rows of their lengths
    scores = score(ImageLogits(janus.network), table, codes, params)
    assert (scores.logprobs - sampled).abs().max() < 1e-4
    torch.testing.assert_close(scores.distribution.exp().sum(-1), torch.ones(3, janus.image_tokens))
    unfiltered = params.top_k == 0 and params.top_p == 1
    assert bool(scores.distribution.isfinite().all()) == unfiltered


def test_as_published_divides_the_guided_logits_by_the_scale(janus: Janus) -> None:
    """log-softmax of c − (g − 1) / g · u, written as the released code does."""
    params = SamplingParams(5.0, 1.0, 0, 1.0)
    codes, _ = drawn(janus, params)
    rows = [janus.encode(prompt) for prompt in PROMPTS]
    table = PromptTable.of(rows, janus.ids, janus.device)
    found = score(ImageLogits(janus.network), table, codes, params, logp="as_published")
    expected = (found.conditional - 0.8 * found.unconditional).log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(found.logprobs, expected)
    assert (found.logprobs - score(ImageLogits(janus.network), table, codes, params).logprobs).abs().max() > 0.1


def test_a_shared_prompt_changes_neither_logits_nor_gradients(janus: Janus) -> None:
    """Six pictures of two prompts of different lengths, read twice in all or once for each picture."""
    rows = [janus.encode(prompt) for prompt in PROMPTS[:2]]
    longest = max(map(len, rows))
    ids = torch.tensor([[janus.ids.pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    which = torch.tensor([1, 0, 0, 1, 1, 0])
    codes = torch.randint(janus.codebook_size, (6, janus.image_tokens), generator=torch.Generator().manual_seed(0))
    found = []
    for shared in (True, False):
        janus.network.zero_grad()
        logits = (
            image_logits(janus.network, ids, mask, codes, prompts=which)
            if shared
            else image_logits(janus.network, ids[which], mask[which], codes)
        )
        torch.autograd.backward(logits.log_softmax(-1).gather(-1, codes[..., None]).mean())
        found.append((logits.detach(), gradients(janus)))
    torch.testing.assert_close(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-3, atol=1e-6)


def gradients(janus: Janus) -> dict[str, Tensor]:
    parameters = decoder_parameters(janus.network)
    return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


def recipe(**parts: object) -> GRPORecipe:
    base: dict[str, object] = {
        "steps": 4,
        "rollout": {"pairs": 1, "samples": 2, "guidance_scale": 3.0},
        "update": {"learning_rate": [{"at": 0, "value": 1e-3}], "micro_batch": 2},
    }
    return GRPORecipe.model_validate(base | parts)


def samples_of(janus: Janus) -> Samples:
    """Two pictures of each of two prompts and one ground-truth picture; random codes, scored by the engine's rules."""
    plans = (PairPlan(0, 0, PROMPTS[:2], ((1, 2), (3, 4)), (GroundTruth(0, 0),)),)
    codes = torch.randint(janus.codebook_size, (5, janus.image_tokens), generator=torch.Generator().manual_seed(4))
    table = PromptTable.of([janus.encode(PROMPTS[i]) for i in (0, 0, 1, 1, 0)], janus.ids, janus.device)
    with torch.no_grad():
        logprobs = score(ImageLogits(janus.network), table, codes, recipe().rollout.params).logprobs
    logprobs[4] = 0
    return Samples(plans, codes, logprobs, torch.tensor([1.0, 0.0, 0.5, 0.5, 1.0]))


VALUES = torch.tensor([1.5, -1.0, 0.0, 0.0, 0.5])
ADVANTAGES = Advantages(VALUES, torch.ones(5, dtype=torch.bool), torch.ones(1, dtype=torch.bool))


def copy_reference(janus: Janus) -> CopyReference:
    reference = SharedWeights(janus, ALONE, WeightsRecipe()).reference()
    assert isinstance(reference, CopyReference)
    return reference


def backward(janus: Janus, chosen: GRPORecipe, samples: Samples, reference: Reference | None = None) -> Means:
    objective, means = Objective(janus, SharedWeights(janus, ALONE, WeightsRecipe()), chosen, reference), Means()
    janus.network.zero_grad()
    objective.backward(samples, ADVANTAGES, objective.old_policy(samples), means)
    return means


def written_out(janus: Janus, samples: Samples, values: Tensor, *, beta: float = 0.0, kl_rows: Tensor | None = None,
                reference: nn.Module | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Gradients of the objective in plain words: every sample by itself, full sequences, no clip, no weights."""
    janus.network.zero_grad()
    total = torch.zeros(())
    for i, prompt in enumerate(samples.prompts()):
        row = janus.encode(prompt)
        blank = [janus.ids.bos, *[janus.ids.pad] * (len(row) - 2), janus.ids.begin_of_image]
        code = samples.codes[i : i + 1]

        def logprobs(network: nn.Module, row: list[int] = row, blank: list[int] = blank, code: Tensor = code) -> Tensor:
            ids = torch.tensor([row, blank])
            c, u = image_logits(network, ids, torch.ones_like(ids), code.repeat(2, 1))
            chosen: Tensor = (u + 3.0 * (c - u)).log_softmax(-1).gather(-1, code[0][:, None])[:, 0]
            return chosen

        own = logprobs(janus.network)
        total = total - (values[i] * own).sum()
        if beta and reference is not None and kl_rows is not None and kl_rows[i]:
            with torch.no_grad():
                other = logprobs(reference)
            total = total + beta * ((other - own).exp() - (other - own) - 1).sum()
    torch.autograd.backward(total / samples.codes.numel())
    return gradients(janus)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5 * scale, msg=name)


def test_the_gradient_is_that_of_the_objective_written_out(janus: Janus) -> None:
    """Samples without advantage are left out of the passes, but count as tokens of the mean."""
    samples = samples_of(janus)
    backward(janus, recipe(), samples)
    found = gradients(janus)
    assert_close(found, written_out(janus, samples, VALUES))
    pad = decoder_parameters(janus.network)["model.language_model.embed_tokens.weight"]
    assert pad.grad is not None
    assert pad.grad[janus.ids.pad].abs().max() > 0  # the unconditional row is trained


@pytest.mark.parametrize("on_ground_truth", [False, True])
def test_the_kl_term_counts_on_ground_truth_only_if_asked_to(janus: Janus, on_ground_truth: bool) -> None:
    reference = copy_reference(janus)
    with torch.no_grad():
        for parameter in decoder_parameters(reference.network).values():
            parameter.mul_(1.02)
    samples = samples_of(janus)
    parts = {"loss": {"beta": 0.3}, "ground_truth": {"kl": on_ground_truth}, "advantage": {"dead_groups": "keep"}}
    means = backward(janus, recipe(**parts), samples, reference)
    found = gradients(janus)
    rows = torch.tensor([True] * 4 + [on_ground_truth])
    assert_close(found, written_out(janus, samples, VALUES, beta=0.3, kl_rows=rows, reference=reference.network))
    assert means.result()["kl"] > 0


def test_the_reference_keeps_its_weights_until_it_is_refreshed(janus: Janus) -> None:
    reference = copy_reference(janus)
    before = {name: p.clone() for name, p in decoder_parameters(janus.network).items()}
    with torch.no_grad():
        for parameter in decoder_parameters(janus.network).values():
            parameter.add_(0.1)
    for name, parameter in decoder_parameters(reference.network).items():
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad
    assert reference.network.model.vqmodel is janus.network.model.vqmodel
    reference.refresh()
    for name, parameter in decoder_parameters(reference.network).items():
        assert torch.equal(parameter, before[name] + 0.1)
    saved = reference.state_dict()
    other = copy_reference(janus)
    other.load_state_dict(saved)


def test_ground_truth_outside_the_filters_leaves_the_ratio(janus: Janus) -> None:
    """Random codes are mostly outside top-k: the gradient is finite, and that of the tokens inside."""
    chosen = recipe(rollout={"pairs": 1, "samples": 2, "guidance_scale": 3.0, "top_k": 20})
    samples = samples_of(janus)
    table = PromptTable.of([janus.encode(PROMPTS[0])], janus.ids, janus.device)
    scores = score(ImageLogits(janus.network), table, samples.codes[4:], chosen.rollout.params)
    inside = scores.logprobs.isfinite()
    assert 0 < inside.sum() < inside.numel() / 2
    only_truth = Advantages(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5]), ADVANTAGES.scored, ADVANTAGES.live)
    objective = Objective(janus, SharedWeights(janus, ALONE, WeightsRecipe()), chosen, None)
    janus.network.zero_grad()
    objective.backward(samples, only_truth, objective.old_policy(samples), Means())
    found = gradients(janus)
    janus.network.zero_grad()
    loss = (
        -0.5 * score(ImageLogits(janus.network), table, samples.codes[4:], chosen.rollout.params).logprobs[inside].sum()
    )
    torch.autograd.backward(loss / samples.codes.numel())
    assert_close(found, gradients(janus))


def test_the_mask_of_the_rollouts_filters_stays_through_later_updates(janus: Janus) -> None:
    """After an update other codes would be kept; the ratio is still taken over those kept at first."""
    chosen = recipe(rollout={"pairs": 1, "samples": 2, "guidance_scale": 3.0, "top_k": 20})
    codes, _ = drawn(janus, chosen.rollout.params)
    samples = samples_of(janus)
    samples = Samples(samples.plans, codes[[0, 0, 1, 1, 0]], samples.rollout_logprobs, samples.rewards)
    objective = Objective(janus, SharedWeights(janus, ALONE, WeightsRecipe()), chosen, None)
    old = objective.old_policy(samples)
    every = Advantages(torch.ones(5), ADVANTAGES.scored, ADVANTAGES.live)
    objective.backward(samples, every, old, Means())
    kept = old.kept([0, 1])
    assert kept is not None
    assert set(kept.sum(-1).flatten().tolist()) == {20}
    with torch.no_grad():
        for parameter in decoder_parameters(janus.network).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    table = PromptTable.of([janus.encode(PROMPTS[0])] * 2, janus.ids, janus.device)
    scores = score(ImageLogits(janus.network), table, samples.codes[:2], chosen.rollout.params, kept=kept)
    assert torch.equal(scores.distribution.isfinite(), kept)
    assert not torch.equal(
        score(ImageLogits(janus.network), table, samples.codes[:2], chosen.rollout.params).distribution.isfinite(), kept
    )


def test_attention_credit_equals_the_attention_that_transformers_computes(janus: Janus) -> None:
    """Eager attention probabilities of the middle third of the layers, summed over the content words."""
    rows = [janus.encode(prompt) for prompt in PROMPTS[:2]]
    longest = max(map(len, rows))
    ids = torch.tensor([[janus.ids.pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    codes = torch.randint(janus.codebook_size, (2, janus.image_tokens), generator=torch.Generator().manual_seed(1))
    assert janus.tokenizer is not None
    content = torch.zeros_like(mask, dtype=torch.bool)
    for i, prompt in enumerate(PROMPTS[:2]):
        own = content_tokens(janus.tokenizer, prompt)
        content[i, -len(own) :] = torch.tensor(own)
    found = attention_map(SharedWeights(janus, ALONE, WeightsRecipe()), ids, mask, codes, content)
    language_model = janus.network.model.language_model
    language_model.set_attn_implementation("eager")
    inputs = torch.cat(
        [language_model.embed_tokens(ids), janus.network.prepare_embeddings_for_image_generation(codes[:, :-1])], dim=1
    )
    whole = torch.nn.functional.pad(mask, (0, codes.shape[1] - 1), value=1)
    attentions = language_model(
        inputs_embeds=inputs,
        attention_mask=whole,
        position_ids=(whole.cumsum(-1) - 1).clamp(min=0),
        output_attentions=True,
    ).attentions
    third = max(1, len(attentions) // 3)
    middle = attentions[(len(attentions) - third) // 2 :][:third]
    expected = torch.stack([
        (layer[:, :, longest - 1 :, :longest] * content[:, None, None]).sum(-1).mean(1) for layer in middle
    ]).mean(0)  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a picture of three red circles", "three red circles"),
        ('an orange sign that says "FOX" at night', "orange sign fox night"),
        ("a red heart above a green square", "red heart above green square"),
        ("the", "the"),
    ],
)
def test_content_words(janus: Janus, prompt: str, expected: str) -> None:
    assert janus.tokenizer is not None
    row = janus.encode(prompt)
    chosen = content_tokens(janus.tokenizer, prompt)
    assert len(chosen) == len(row)
    kept = janus.tokenizer.decode([token for token, own in zip(row, chosen, strict=True) if own])
    assert kept.replace(" ", "") == expected.replace(" ", "")


@pytest.mark.parametrize("method", ["attention", "guidance", "pair"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_credit_spreads_an_advantage_without_changing_its_sum(janus: Janus, method: str, shuffled: bool) -> None:
    """The weights multiply each token's loss: with them the gradient is another one, of the same total weight."""
    samples = samples_of(janus)
    backward(janus, recipe(), samples)
    uniform = gradients(janus)
    chosen = recipe(credit={"method": method, "shuffled": shuffled})
    backward(janus, chosen, samples)
    found = gradients(janus)
    assert any(not torch.allclose(found[name], uniform[name], rtol=0.05) for name in found)
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_two_pictures_of_a_pair_are_told_apart_by_the_words_that_differ(janus: Janus) -> None:
    from train.grpo.objective.credit_allocator import CreditAllocator
    from train.grpo.objective.micro_batches import micro_batches

    samples = samples_of(janus)
    (batch, *_) = micro_batches(samples, ADVANTAGES, torch.ones(5, dtype=torch.bool), 5, janus, ALONE)
    assert set(zip(batch.texts, batch.others, strict=True)) == {PROMPTS[:2], PROMPTS[1::-1]}
    scores = score(ImageLogits(janus.network), batch.prompts, batch.codes, recipe().rollout.params)
    for method in ("uniform", "attention", "guidance", "pair"):
        for shuffled in (False, True):
            chosen = recipe(credit={"method": method, "shuffled": shuffled}).credit
            weights = CreditAllocator(janus, SharedWeights(janus, ALONE, WeightsRecipe()), chosen)(batch, scores)
            torch.testing.assert_close(weights.mean(-1), torch.ones(5))
            assert (weights >= 0).all()


@pytest.fixture(autouse=True)
def _eval_mode(janus: Janus) -> Iterator[None]:
    yield
    assert not janus.network.training


def test_the_old_policy_is_the_one_before_the_first_update() -> None:
    """Samples that were stored once keep their log-probabilities; those that were not are stored beside them."""

    def scores(value: float) -> Scores:
        nothing = torch.zeros(2, 3, 5)
        return Scores(torch.full((2, 3), value), nothing, nothing, nothing)

    old = OldPolicy(torch.zeros(3, 3, dtype=torch.int64), filtered=False)
    old.remember([0, 1], scores(-1.0))
    old.remember([0, 1], scores(-2.0))
    assert torch.equal(old.gather(ALONE)[:2], torch.full((2, 3), -1.0))
    old.remember([2, 0], scores(-1.0))  # a sample that another process has too, to fill up a micro-batch
    assert torch.equal(old.gather(ALONE), torch.full((3, 3), -1.0))
