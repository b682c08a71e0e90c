"""The score table: its prompts, resuming, refusing another checkpoint's results, and its statistics."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from bench.command import main
from bench.pictures.codes import pack_codes, unpack_codes
from bench.speed.geometry import random_janus
from bench.world.comparison import compare
from bench.world.likelihood import surprise
from bench.world.pairshapes import (
    Picture,
    PromptSet,
    Result,
    judge_pictures,
    read_results,
    table,
    unseen_prompts,
)
from bench.world.random_layers import deep_decoder
from model.attention import Rows
from model.checkpoints.load import load
from model.generate import generate
from pairs.judges.opening import open_judge
from pairs.judges.settings import JudgeSettings
from pairs.scene import CATEGORIES
from pairs.world import World
from tests.ended import Ended
from tests.vlm_endpoint import VlmEndpoint
from train.tiny.recipe import load_recipe

EXACT = open_judge(JudgeSettings())
WORLD = World(load_recipe("tiny").held_out)


def test_prompts_are_unseen_and_at_least_a_third_is_held_out() -> None:
    prompts = unseen_prompts(WORLD, 30)
    assert len(prompts) == 30 * len(CATEGORIES)
    assert len({prompt.caption for prompt in prompts}) == len(prompts)
    assert all(not WORLD.allows(prompt.scene, "train") for prompt in prompts)
    for category in CATEGORIES:
        chosen = [prompt for prompt in prompts if prompt.category == category]
        assert len(chosen) == 30
        assert sum(prompt.held_out for prompt in chosen) >= 10
    assert [prompt.caption for prompt in unseen_prompts(WORLD, 30)] == [prompt.caption for prompt in prompts]


def test_results_resume_and_belong_to_one_checkpoint(tmp_path: Path, small_folder: Path) -> None:
    janus = load(small_folder, device="cpu")
    prompts = unseen_prompts(WORLD, 1)
    pictures = [Picture(prompt, scale, seed) for scale in (1.0, 2.0) for prompt in prompts for seed in range(2)]
    results = tmp_path / "tiny.jsonl"
    whole = judge_pictures(janus, pictures, results, judge=EXACT, slots=8)
    lines = results.read_text().splitlines()
    assert len(lines) == 1 + len(pictures)
    # a killed run leaves whole lines and a cut one, or only a cut first line, or an empty file
    for left in ("\n".join(lines[:9]) + "\n" + lines[9][:17], lines[0][:30], ""):
        results.write_text(left)
        assert judge_pictures(janus, pictures, results, judge=EXACT, slots=5) == whole
    more = [Picture(prompt, 1.0, 0) for prompt in unseen_prompts(WORLD, 2)]  # the same prompts have other indices here
    again = judge_pictures(janus, more, results, judge=EXACT, slots=8)
    assert again == judge_pictures(janus, more, tmp_path / "fresh.jsonl", judge=EXACT, slots=8) | whole
    assert "overall" in table(prompts, whole, [1.0, 2.0], range(2))
    with pytest.raises(ValueError, match="another checkpoint"):
        judge_pictures(replace(janus, name="other"), pictures, results, judge=EXACT, slots=8)


def test_table_of_known_results() -> None:
    """Means computed by hand: one category scores 1 and 0.5, the others 0; one prompt has two equal pictures."""
    prompts = unseen_prompts(WORLD, 2)
    first = [prompt for prompt in prompts if prompt.category == "appearance"]
    results = {(prompt.caption, 2.0, seed): Result(0.0, f"{seed}") for prompt in prompts for seed in range(2)}
    for seed in range(2):
        results[(first[0].caption, 2.0, seed)] = Result(1.0, f"{seed}")
        results[(first[1].caption, 2.0, seed)] = Result(0.5, "same")
    rows = {line[:24].strip(): line[24:].split() for line in table(prompts, results, [2.0], range(2)).splitlines()}
    assert rows["appearance"] == ["0.750", "±", "0.250"]
    assert rows["overall"][0] == f"{1.5 / len(prompts):.3f}"
    assert rows["worst category"] == ["0.000"]
    assert rows["all 2 pictures differ"] == [str(len(prompts) - 1), "of", str(len(prompts))]


def test_gain_by_guidance_is_paired_by_prompt() -> None:
    """Scores differ widely between prompts, but each gains exactly 0.1, so the gain's standard error is 0."""
    prompts = unseen_prompts(WORLD, 2)
    results = {
        (prompt.caption, scale, seed): Result(prompt.index / 20 + (0.1 if scale == 2 else 0), f"{seed}")
        for prompt in prompts
        for scale in (1.0, 2.0)
        for seed in range(2)
    }
    (line,) = (
        line
        for line in table(prompts, results, [1.0, 2.0], range(2)).splitlines()
        if line.startswith("gain over guidance 1")
    )
    assert line[24:].split() == ["0.000", "±", "0.000", "0.100", "±", "0.000"]


def test_a_failed_judgement_is_asked_for_again(tmp_path: Path, small_folder: Path, endpoint: VlmEndpoint) -> None:
    """It is missing in the results, never 0; what was judged is not drawn again. Another judge is refused."""
    janus = load(small_folder, device="cpu")
    first, second = unseen_prompts(WORLD, 1)[:2]
    pictures = [Picture(prompt, 1.0, seed) for prompt in (first, second) for seed in range(2)]
    judge = open_judge(JudgeSettings(endpoint.url, model="vlm", at_once=3))
    endpoint.faults[first.caption] = [400, 400]
    results = tmp_path / "small.jsonl"
    made = judge_pictures(janus, pictures, results, judge=judge, slots=8)
    assert [made[picture.key].score is None for picture in pictures] == [True, True, False, False]
    assert endpoint.questions.total() == 4
    whole = judge_pictures(janus, pictures, results, judge=judge, slots=8)
    assert endpoint.questions.total() == 6
    assert read_results(results)[1] == whole
    assert all(result.score is not None for result in whole.values())
    assert all(whole[picture.key] == made[picture.key] for picture in pictures[2:])
    with pytest.raises(ValueError, match="another checkpoint, judge"):
        judge_pictures(janus, pictures, results, judge=EXACT, slots=8)


def test_results_of_different_judges_are_not_compared(tmp_path: Path, command: Callable[..., Ended]) -> None:
    row = json.dumps({"prompt": "a", "guidance_scale": 1.0, "seed": 0, "score": 0.5, "codes": pack_codes([1])})
    files = []
    for name, judge in (("old", {}), ("exact", dict(EXACT.identity)), ("vlm", {"judge model": "vlm"})):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text(json.dumps({"model": name} | judge) + "\n" + row + "\n")
    old, exact, vlm = files
    assert command(main, "compare", old, exact).code == 0
    ended = command(main, "compare", exact, vlm)
    assert ended.code == 2
    assert "different judges" in ended.err


def test_codes_come_back_from_a_results_file(tmp_path: Path, small_folder: Path) -> None:
    janus = load(small_folder, device="cpu")
    pictures = [Picture(unseen_prompts(WORLD, 1)[0], 1.0, seed) for seed in range(2)]
    made = judge_pictures(janus, pictures, tmp_path / "small.jsonl", judge=EXACT, slots=8)
    identity, results = read_results(tmp_path / "small.jsonl")
    assert results == made
    assert identity["model"] == "small"
    codes = generate(janus, [pictures[0].prompt.caption] * 2, seeds=[0, 1], guidance_scale=1.0)
    assert [unpack_codes(results[picture.key].codes).tolist() for picture in pictures] == codes.tolist()
    (tmp_path / "other.jsonl").write_text('{}\n{"score": 1}\n')
    with pytest.raises(ValueError, match=r"other\.jsonl is not a results file"):
        read_results(tmp_path / "other.jsonl")


def test_the_validation_set_is_another_than_the_test_set() -> None:
    sets: tuple[PromptSet, ...] = ("test", "validation")
    captions = [{prompt.caption for prompt in unseen_prompts(WORLD, 50, chosen)} for chosen in sets]
    assert len(captions[0] & captions[1]) < 30  # of 300: simple scenes are few
    assert all(not WORLD.allows(prompt.scene, "train") for prompt in unseen_prompts(WORLD, 20, "validation"))


def test_a_comparison_by_hand() -> None:
    """Gains of 0.2 and 0.4 by prompt: mean 0.3, s.e. 0.1; a key that only one has, or a failed judgement, is left out."""
    same, half, other = pack_codes([1, 2, 3, 4]), pack_codes([1, 2, 9, 9]), pack_codes([5, 6, 7, 8])
    before = {("a", 2.0, 0): Result(0.1, same), ("a", 2.0, 1): Result(0.3, half), ("b", 2.0, 0): Result(0.5, same),
              ("b", 2.0, 1): Result(0.5, other), ("b", 3.0, 0): Result(0.0, same), ("b", 2.0, 2): Result(None, same)}  # fmt: skip
    after = {("a", 2.0, 0): Result(0.5, same), ("a", 2.0, 1): Result(0.3, same), ("b", 2.0, 0): Result(1.0, same),
             ("b", 2.0, 1): Result(0.8, half), ("c", 2.0, 0): Result(0.0, same), ("b", 2.0, 2): Result(1.0, same)}  # fmt: skip
    (found,) = compare(before, after)
    assert found.before.value == pytest.approx(0.35)
    assert found.after.value == pytest.approx(0.65)
    assert found.gain.value == pytest.approx(0.3)
    assert found.gain.standard_error == pytest.approx(0.1)
    assert found.interval == pytest.approx((0.3 - 0.196, 0.3 + 0.196))
    assert (found.diversity_before, found.diversity_after) == (0.75, 0.25)
    with pytest.raises(ValueError, match="in common"):
        compare(before, {("z", 2.0, 0): Result(1.0, same)})


def test_a_trained_model_expects_fresh_pictures_and_more_so_given_their_prompt(small_folder: Path) -> None:
    """An untrained model of 64 codes is near log 64 nats or above; one trained by likelihood far below, lower with the prompt."""
    prompts = unseen_prompts(WORLD, 2)
    given_prompt, unconditional = surprise(load("tiny-sft", device="cpu"), prompts)
    assert 0.2 < given_prompt < unconditional < 2
    assert surprise(load(small_folder, device="cpu"), prompts)[0] > 3.5


def test_layers_that_are_made_when_read_compute_as_a_network_that_holds_them() -> None:
    """Against transformers, given the same weights: keys, values and logits of a prompt, and logits after codes."""
    decoder = deep_decoder("12x768", layers=2)
    network = random_janus(
        "12x768", torch.device("cpu"), torch.float32, layers=1
    ).network  # its other weights are the decoder's
    blocks = network.model.language_model.layers
    blocks.append(LlamaDecoderLayer(network.config.text_config, 1))
    network.config.text_config.num_hidden_layers = 2
    assert decoder.weights.layers[0].qkv is not decoder.weights.layers[0].qkv  # made anew, yet equal
    for block, own in zip(blocks, decoder.weights.layers, strict=True):
        attention, mlp = block.self_attn, block.mlp
        for modules, matrix in (
            ([attention.q_proj, attention.k_proj, attention.v_proj], own.qkv),
            ([attention.o_proj], own.out),
            ([mlp.gate_proj, mlp.up_proj], own.gate_up),
            ([mlp.down_proj], own.down),
        ):
            assert isinstance(matrix, torch.Tensor)
            for module, part in zip(modules, matrix.chunk(len(modules)), strict=True):
                module.weight.data = part
    assert not torch.equal(blocks[0].mlp.down_proj.weight, blocks[1].mlp.down_proj.weight)
    prefix, cache = decoder.prefill([[1, 5, 9, 2]])[0], decoder.cache(1, 6)
    cache.begin(0, prefix)
    fed = torch.tensor([7, 8])
    after = decoder.step(fed, Rows.of([0, 0], [4, 5], decoder.device), cache)
    with torch.no_grad():
        embedded = torch.cat(
            [
                network.get_input_embeddings()(torch.tensor([1, 5, 9, 2])),
                network.prepare_embeddings_for_image_generation(fed),
            ]
        )
        hidden = network.model.language_model(inputs_embeds=embedded[None]).last_hidden_state[0]
        expected = network.model.generation_head(hidden[3:])
    torch.testing.assert_close(torch.cat([prefix.logits[None], after]), expected)


def test_rounding_is_compared_with_the_float_model(command: Callable[..., Ended]) -> None:
    """The fewer the bits, the more logits change, and the fewer codes stay."""
    ended = command(main, "rounding", "--pictures", 2)
    assert ended.code == 0, ended.err
    rows = {cells[0]: cells[1:] for line in ended.out.splitlines()[3:] if (cells := line.strip("| ").split(" | "))}
    assert rows.keys() == {"int8", "int4", "fp8"}
    errors = {name: float(cells[1]) for name, cells in rows.items()}
    assert 0 < 2 * errors["int8"] < errors["fp8"] < errors["int4"] / 2
    moved = {name: float(cells[2]) for name, cells in rows.items()}
    assert 0 < moved["int8"] < moved["fp8"] < moved["int4"] / 2 < 0.5
    assert float(rows["int4"][3].split()[0]) < 1
    for wrong, error in (
        (["--pictures", 0], "--pictures must be at least 1, not 0"),
        (["--geometry", "12x768", "--layers", 0], "layers must be at least 1, not 0"),
        (["--geometry", "7b"], "no geometry '7b'; known: janus-pro-7b"),
    ):
        ended = command(main, "rounding", *wrong)
        assert ended.code == 2
        assert error in ended.err
