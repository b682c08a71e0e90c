"""The reference loop: an image depends on its prompt, settings and seed alone."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.errors import PromptError
from model.generate import generate
from model.janus import Janus
from model.noise import gumbel


@pytest.fixture(scope="module")
def rows(golden: Mapping[str, Tensor]) -> list[list[int]]:
    return [golden[f"prompt{i}.input_ids"].tolist() for i in range(3)]


@pytest.mark.parametrize(
    "settings",
    [{"guidance_scale": 1.0}, {"guidance_scale": 3.0, "top_k": 40}, {"top_p": 0.8, "temperature": 1.3}],
    ids=["unguided", "top_k", "top_p"],
)
def test_a_seeded_image_is_the_same_alone_and_among_neighbours(
    deepseek: Janus, rows: list[list[int]], settings: dict[str, float]
) -> None:
    seeds = [11, 2**40, 3]
    together = generate(deepseek, rows, seeds=seeds, **settings)  # type: ignore[arg-type]
    for i in range(3):
        alone = generate(deepseek, [rows[i]], seeds=[seeds[i]], **settings)  # type: ignore[arg-type]
        assert torch.equal(together[i], alone[0])


def test_seeds_make_different_images_of_one_prompt(deepseek: Janus, rows: list[list[int]]) -> None:
    codes = generate(deepseek, [rows[0]] * 3, seeds=[1, 2, 1], guidance_scale=1)
    assert torch.equal(codes[0], codes[2])
    assert not torch.equal(codes[0], codes[1])


def test_a_negative_prompt_equal_to_the_prompt_cancels_guidance(deepseek: Janus, rows: list[list[int]]) -> None:
    plain = generate(deepseek, rows, seeds=[1, 2, 3], guidance_scale=1)
    cancelled = generate(deepseek, rows, seeds=[1, 2, 3], guidance_scale=7, negative_prompts=rows)
    assert torch.equal(plain, cancelled)


def test_a_negative_prompt_of_another_length_is_used(deepseek: Janus, rows: list[list[int]]) -> None:
    one = generate(deepseek, [rows[0]], seeds=[1], guidance_scale=4, negative_prompts=[rows[2]])
    other = generate(deepseek, [rows[0]], seeds=[1], guidance_scale=4)
    assert not torch.equal(one, other)
    with_neighbour = generate(
        deepseek, [rows[0], rows[1]], seeds=[1, 5], guidance_scale=4, negative_prompts=[rows[2], None]
    )
    assert torch.equal(with_neighbour[0], one[0])


def test_on_token_receives_the_codes_drawn_so_far(deepseek: Janus, rows: list[list[int]]) -> None:
    seen: list[tuple[int, list[int]]] = []
    codes = generate(
        deepseek, [rows[1]], seeds=[4], on_token=lambda n, so_far: seen.append((n, so_far[0, :n].tolist()))
    )
    assert [n for n, _ in seen] == list(range(1, deepseek.image_tokens + 1))
    assert all(so_far == codes[0, :n].tolist() for n, so_far in seen)


def test_with_equal_logits_each_code_is_the_arg_max_of_its_noise(deepseek: Janus, rows: list[list[int]]) -> None:
    """The image head is zeroed: each code must be the arg-max of the noise of its seed and position."""
    network = copy.deepcopy(deepseek.network)
    for parameter in network.model.generation_head.vision_head.parameters():
        parameter.data.zero_()
    codes = generate(replace(deepseek, network=network), rows[:2], seeds=[3, 9], guidance_scale=2)
    tokens, size = deepseek.image_tokens, network.config.vq_config.num_embeddings
    for row, seed in zip(codes, (3, 9), strict=True):
        noise = gumbel(torch.full((tokens,), seed), torch.arange(tokens), size)
        assert torch.equal(row, noise.argmax(-1))


def test_fewer_seeds_than_prompts_are_refused(deepseek: Janus, rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="seeds"):
        generate(deepseek, rows, seeds=[1])


@pytest.mark.parametrize(
    ("ids", "said"), [([], "0 token ids"), ([1] * 257, "257 token ids"), ([1, 300], "0 … 299"), ([-1], "0 … 299")]
)
def test_token_ids_that_the_model_cannot_take_are_refused(deepseek: Janus, ids: list[int], said: str) -> None:
    with pytest.raises(PromptError, match=said):
        generate(deepseek, [ids], seeds=[1])
