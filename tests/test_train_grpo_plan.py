"""Plans of steps, and the samples drawn from them: ground truth belongs to its prompt, codes, picture and reward."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoints.load import load
from model.image_tokenizer import ImageTokenizer
from pairs.judges.exact.exact_judge import ExactJudge
from pairs.scene import Split
from pairs.world import World
from serve.engine.engine import Engine
from train.data.codes import CodeCache, square
from train.data.order import shuffled
from train.data.pairs import WorldPairs
from train.grpo.recipe import GRPORecipe
from train.grpo.rollout.plan import GroundTruth, plan, plan_pair
from train.grpo.rollout.rollout import Rollout
from train.grpo.rollout.samples import Places, Samples, load_attempts, load_samples, save_samples

UPDATE = {"learning_rate": [{"at": 0, "value": 1e-4}]}


def recipe(**parts: object) -> GRPORecipe:
    rollout = {"pairs": 3, "samples": 4, "guidance_scale": 2.0}
    return GRPORecipe.model_validate({"steps": 100, "rollout": rollout, "update": UPDATE} | parts)


def truth(use: str, group: str = "grown", p: float = 1.0) -> dict[str, object]:
    return {"use": use, "group": group, "probability": [{"at": 0, "value": p}]}


SOURCE = WorldPairs(World(), seed=0, size=64)


def test_an_affine_order_visits_every_row_once_per_pass() -> None:
    for count in (1, 2, 7919, 10_000):
        first = [shuffled(position, count, seed=3) for position in range(count)]
        assert sorted(first) == list(range(count))
    assert [shuffled(p, 50) for p in range(50)] != [shuffled(p, 50) for p in range(50, 100)]


def test_a_plan_depends_on_its_step_alone() -> None:
    chosen = recipe(ground_truth=truth("both", p=0.5))
    later = [plan(chosen, SOURCE, step) for step in (7, 3)]
    assert plan(chosen, SOURCE, 3) == later[1]
    assert plan(chosen, SOURCE, 7) == later[0]
    assert plan(chosen.model_copy(update={"seed": 1}), SOURCE, 3) != later[1]


def test_no_two_rollouts_share_a_seed() -> None:
    """Neither of a step, nor of two steps, prompts, pairs, attempts or runs."""
    plans = [pair for seed in (0, 1) for step in range(20) for pair in plan(recipe(seed=seed), SOURCE, step)]
    plans += [plan_pair(recipe(), SOURCE, 0, place, attempt=1) for place in range(3)]
    seeds = [seed for pair in plans for own in pair.seeds for seed in own]
    assert len(seeds) == (2 * 20 + 1) * 3 * 2 * 4
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**53 for seed in seeds)


@pytest.mark.parametrize(
    ("use", "group", "rollouts", "entries"),
    [
        ("none", "grown", 4, 0),
        ("positive", "grown", 4, 2),
        ("both", "grown", 4, 4),  # the paper's group: 2 G + 4
        ("positive", "fixed", 3, 2),
        ("both", "fixed", 2, 4),  # the released code's: 2 G in all
    ],
)
def test_groups_of_every_kind(use: str, group: str, rollouts: int, entries: int) -> None:
    for pair in plan(recipe(ground_truth=truth(use, group)), SOURCE, 5):
        assert [len(seeds) for seeds in pair.seeds] == [rollouts, rollouts]
        assert len(pair.ground_truth) == entries
        assert pair.samples == 2 * rollouts + entries
        if use == "positive":
            assert pair.ground_truth == (GroundTruth(0, 0), GroundTruth(1, 1))
        if use == "both":
            assert set(pair.ground_truth) == {GroundTruth(i, j) for i in (0, 1) for j in (0, 1)}


def test_ground_truth_comes_with_probability_p_of_the_step() -> None:
    """p falls from 1 to 0 over the run: means of the first, second and third of it within four standard errors."""
    falling = {"use": "positive", "probability": [{"at": 0, "value": 1.0}, {"at": 1, "value": 0.0}]}
    chosen = recipe(ground_truth=falling, steps=600)
    has = np.array([[bool(pair.ground_truth) for pair in plan(chosen, SOURCE, step)] for step in range(600)])
    assert has[0].all()
    for third, expected in enumerate((5 / 6, 1 / 2, 1 / 6)):
        share = has[200 * third : 200 * (third + 1)].mean()
        assert abs(share - expected) < 4 * (expected * (1 - expected) / 600) ** 0.5


def test_places_follow_the_plan() -> None:
    plans = plan(recipe(ground_truth=truth("both", "fixed")), SOURCE, 0)
    places = Places.of(plans)
    assert places.pair.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert places.prompt.tolist() == [0, 0, 1, 1, 0, 0, 1, 1] * 3
    assert places.picture.tolist() == [-1, -1, -1, -1, 0, 1, 0, 1] * 3
    assert places.seed[:4].tolist() == [*plans[0].seeds[0], *plans[0].seeds[1]]
    assert places.groups("pair").tolist() == places.pair.tolist()
    assert places.groups("prompt").tolist() == [2 * i + j for i in range(3) for j in [0, 0, 1, 1, 0, 0, 1, 1]]


def test_the_first_pass_of_a_finite_source_uses_every_pair_once() -> None:
    class Ten(WorldPairs):
        def __len__(self) -> int:
            return 12

    source = Ten(World(), seed=0, size=64)
    used = [pair.index for step in range(4) for pair in plan(recipe(), source, step)]
    assert Counter(used) == Counter(range(12))


def test_held_out_pairs_are_of_the_test_split() -> None:
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        source = WorldPairs(World(), seed=0, size=64, split=split)
        scenes = [scene for i in range(40) for scene in source._pair(i).scenes]
        assert {World().allows(scene, split) for scene in scenes} == {True}


def test_a_square_is_the_middle_of_the_scaled_picture() -> None:
    """A wide picture whose middle square is red, by columns; a small one is enlarged; transparency goes."""
    wide = Image.new("RGBA", (300, 100), "blue")
    wide.paste("red", (100, 0, 200, 100))
    assert square(wide, 50).getcolors() is not None
    colours = {colour for _, colour in square(wide, 50).crop((2, 2, 48, 48)).getcolors() or []}
    assert colours == {(255, 0, 0)}
    assert square(Image.new("L", (10, 31)), 64).size == (64, 64)
    exact = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert square(exact, 64).tobytes() == exact.tobytes()


class Drawn(NamedTuple):
    samples: Samples
    engine: Engine
    folder: Path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Samples of one step of a shipped model with all ground truth; the engine, and the cache."""
    janus = load("tiny-base", device="cpu")
    engine = Engine(janus, slots=8, logprobs=True)
    folder = tmp_path_factory.mktemp("drawn")
    cache = CodeCache(folder / "codes.sqlite", janus, engine.image_tokenizer)
    chosen = recipe(ground_truth=truth("both"))
    rollout = Rollout(engine, SOURCE, cache, ExactJudge(), chosen)
    samples = rollout.begin(plan(chosen, SOURCE, 0)).samples()
    rollout.close()
    return Drawn(samples, engine, folder)


def test_ground_truth_is_scored_for_its_prompt_on_its_own_reconstruction(drawn: Drawn) -> None:
    """Matched pictures score high and mismatched ones low; codes and rewards are computed again from the source."""
    samples, engine, _ = drawn
    places = samples.places
    matched = places.picture == places.prompt
    assert samples.rewards[~places.is_rollout & matched].mean() > 0.8
    assert samples.rewards[~places.is_rollout & ~matched].mean() < 0.2
    for place in (~places.is_rollout).nonzero()[:, 0].tolist():
        pair = samples.plans[int(places.pair[place])]
        picture = SOURCE.pictures(pair.index)[int(places.picture[place])]
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        codes = ImageTokenizer(engine.janus, native=False).encode(pixels)
        assert torch.equal(samples.codes[place], codes[0])
        shown = Image.fromarray(engine.image_tokenizer.images(codes)[0].numpy())
        (judgement,) = ExactJudge()([shown], [pair.prompts[int(places.prompt[place])]])
        assert judgement is not None
        assert float(samples.rewards[place]) == pytest.approx(judgement.score)


def test_a_rollout_is_the_picture_that_the_server_draws_from_its_prompt_and_seed(drawn: Drawn) -> None:
    from model.generate import generate

    samples, engine, _ = drawn
    places = samples.places
    chosen = places.is_rollout.nonzero()[::5, 0].tolist()
    prompts = samples.prompts()
    codes = generate(
        engine.janus,
        [prompts[i] for i in chosen],
        seeds=places.seed[chosen].tolist(),
        guidance_scale=2.0,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    assert torch.equal(samples.codes[chosen], codes)


def test_samples_come_back_from_disk(drawn: Drawn) -> None:
    samples, _, folder = drawn
    file = folder / "step.safetensors"
    save_samples(samples, file)
    assert load_attempts(file) == [0, 0, 0]
    back = load_samples(file, samples.plans)
    for name in ("codes", "rollout_logprobs", "rewards"):
        assert torch.equal(getattr(back, name), getattr(samples, name))


def test_a_cached_code_is_read_and_another_image_tokenizer_has_its_own(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, engine, folder = drawn
    picture = SOURCE.pictures(123)[0]
    first = CodeCache(folder / "codes.sqlite", engine.janus, engine.image_tokenizer).codes(picture)
    calls = []
    encode = engine.image_tokenizer.encode

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return encode(pixels)

    monkeypatch.setattr(engine.image_tokenizer, "encode", counted)
    again = CodeCache(folder / "codes.sqlite", engine.janus, engine.image_tokenizer)
    assert torch.equal(again.codes(picture), first)
    assert not calls
    other = load("tiny", device="cpu")
    with torch.no_grad():
        other.network.model.vqmodel.quantize.embedding.weight[0].add_(0.1)
    CodeCache(folder / "codes.sqlite", other, engine.image_tokenizer).codes(picture)
    assert calls == [1]
