"""Agreement with the original implementation, from its own checkpoint layout and after conversion."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import JanusForConditionalGeneration

from model.generate import generate
from model.image_tokenizer import ImageTokenizer, to_uint8
from model.janus import Janus
from model.prompt import unconditional_row
from model.sampling import guide

PROMPTS = range(3)


@torch.no_grad()
def teacher_forced_logits(janus: Janus, row: list[int], codes: Tensor) -> Tensor:
    """Logits of every image position along given codes, in one pass without cache: [tokens, V]."""
    network = janus.network
    text = network.model.language_model.embed_tokens(torch.tensor([row]))
    image = network.prepare_embeddings_for_image_generation(codes[None, :-1])
    hidden = network.model.language_model(inputs_embeds=torch.cat([text, image], 1), use_cache=False).last_hidden_state
    logits: Tensor = network.model.generation_head(hidden[0, len(row) - 1 :])
    return logits


@pytest.mark.parametrize("i", PROMPTS)
def test_guided_greedy_codes_equal_the_original(golden_janus: Janus, golden: Mapping[str, Tensor], i: int) -> None:
    row = golden[f"prompt{i}.input_ids"].tolist()
    codes = generate(golden_janus, [row], seeds=[0], guidance_scale=5, temperature=0)
    assert codes[0].tolist() == golden[f"prompt{i}.greedy_tokens"].tolist()


def test_a_batch_of_different_lengths_equals_each_alone(golden_janus: Janus, golden: Mapping[str, Tensor]) -> None:
    rows = [golden[f"prompt{i}.input_ids"].tolist() for i in PROMPTS]
    codes = generate(golden_janus, rows, seeds=[0, 0, 0], guidance_scale=5, temperature=0)
    assert torch.equal(codes, torch.stack([golden[f"prompt{i}.greedy_tokens"] for i in PROMPTS]))


@pytest.mark.parametrize("i", PROMPTS)
def test_unguided_greedy_codes_equal_up_to_the_first_near_tie(
    golden_janus: Janus, golden: Mapping[str, Tensor], i: int
) -> None:
    row = golden[f"prompt{i}.input_ids"].tolist()
    expected = golden[f"prompt{i}.greedy_tokens_no_guidance"]
    top = teacher_forced_logits(golden_janus, row, expected).topk(2).values
    near_tie = (top[:, 0] - top[:, 1] < 1e-3).nonzero().flatten()
    end = int(near_tie[0]) if len(near_tie) else len(expected)
    assert end >= 1
    codes = generate(golden_janus, [row], seeds=[0], guidance_scale=1, temperature=0)[0]
    assert codes[:end].tolist() == expected[:end].tolist()


@pytest.mark.parametrize("i", PROMPTS)
def test_logits_along_the_greedy_path(golden_janus: Janus, golden: Mapping[str, Tensor], i: int) -> None:
    row = golden[f"prompt{i}.input_ids"].tolist()
    codes = golden[f"prompt{i}.greedy_tokens"].long()
    conditional = teacher_forced_logits(golden_janus, row, codes)
    unconditional = teacher_forced_logits(golden_janus, unconditional_row(len(row), golden_janus.ids), codes)
    torch.testing.assert_close(conditional[:16], golden[f"prompt{i}.cond_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(unconditional[:16], golden[f"prompt{i}.uncond_logits"], atol=1e-4, rtol=0)
    logprobs = guide(conditional, unconditional, 5).log_softmax(-1).gather(1, codes[:, None])[:, 0]
    torch.testing.assert_close(logprobs, golden[f"prompt{i}.guided_logprobs"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("i", PROMPTS)
def test_pixels(golden_janus: Janus, golden: Mapping[str, Tensor], i: int) -> None:
    decoded = ImageTokenizer(golden_janus).decode(golden[f"prompt{i}.greedy_tokens"].long()[None])
    torch.testing.assert_close(decoded[0], golden[f"prompt{i}.decoded"], atol=1e-4, rtol=0)
    expected = golden[f"prompt{i}.image"].int()
    assert (to_uint8(decoded)[0].int() - expected).abs().max() <= 1
    assert torch.equal(to_uint8(golden[f"prompt{i}.decoded"][None])[0].int(), expected)


def test_encoding_pictures_gives_the_golden_codes(golden_janus: Janus, golden: Mapping[str, Tensor]) -> None:
    assert torch.equal(ImageTokenizer(golden_janus).encode(golden["vq.pixels"]), golden["vq.encode_ids"].long())


def test_understanding_features(golden_janus: Janus, golden: Mapping[str, Tensor]) -> None:
    features = golden_janus.image_features(golden["vq.pixels"])
    torch.testing.assert_close(features, golden["understand.embeds"], atol=1e-4, rtol=0)


def test_plain_transformers_encodes_pictures_to_the_golden_codes(
    converted_folder: Path, golden: Mapping[str, Tensor]
) -> None:
    plain = JanusForConditionalGeneration.from_pretrained(converted_folder)
    with torch.no_grad():
        codes = plain.model.vqmodel.encode(golden["vq.pixels"]).image_tokens.view(2, -1)
    assert torch.equal(codes, golden["vq.encode_ids"].long())


@pytest.mark.parametrize("i", PROMPTS)
def test_plain_transformers_gives_the_same_greedy_codes(
    converted_folder: Path, golden: Mapping[str, Tensor], i: int
) -> None:
    plain = JanusForConditionalGeneration.from_pretrained(converted_folder)
    row = golden[f"prompt{i}.input_ids"][None]
    codes = plain.generate(row, attention_mask=torch.ones_like(row), generation_mode="image", do_sample=False)
    assert codes[0].tolist() == golden[f"prompt{i}.greedy_tokens"].tolist()
