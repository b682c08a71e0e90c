"""Planned memory against measured memory: weights and optimizer exactly, passes within a few percent."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import profile
from transformers import PreTrainedTokenizerFast

from bench.speed.geometry import GEOMETRIES, geometry_config
from bench.speed.memory import peak_bytes
from model.checkpoints.footprint import footprint
from model.checkpoints.load import load
from model.checkpoints.save import save
from model.checkpoints.shipped import SHIPPED
from model.decoder import Decoder
from model.image_tokenizer import ImageTokenizer, pictures_at_once
from model.janus import Janus
from model.prompt import special_ids
from serve.engine.job import Job, JobState
from serve.engine.prefixes import PrefixReader
from serve.engine.side_stream import SideStream
from tests.ended import Ended
from tests.grpo_runs import recipe, trainer
from train.command import main
from train.grpo.metrics import Means
from train.grpo.objective.objective import Objective
from train.grpo.objective.old_policy import OldPolicy
from train.grpo.recipe import GRPORecipe
from train.grpo.step_samples import advantages_of
from train.memory.drawing import drawing_parts
from train.memory.grpo import micro_batch, plan_grpo
from train.memory.held import weight_parts
from train.memory.ledger import Ledger
from train.memory.plan import ALLOWANCE, GIB, MemoryPlan, Part
from train.memory.sft import plan_sft
from train.memory.weightless import WeightlessJanus, open_weightless, storages, without_processes
from train.ranks import ALONE, Ranks
from train.sft.batches import Batch
from train.sft.loss import code_loss
from train.sft.recipe import SFTRecipe
from train.tiny.network import build_network
from train.tiny.recipe import TinyRecipe
from train.weights.opening import open_weights
from train.weights.recipe import WeightsRecipe

CPU, LENGTH, TWO = torch.device("cpu"), 17, Ranks("fsdp", 0, 2)
LORA = {"rank": 4, "alpha": 8}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, small_recipe: TinyRecipe, small_tokenizer: PreTrainedTokenizerFast
) -> Path:
    """The small checkpoint with two blocks."""
    language = small_recipe.language.model_copy(update={"num_hidden_layers": 2})
    network = build_network(small_recipe.model_copy(update={"language": language}), small_tokenizer).eval()
    folder = tmp_path_factory.mktemp("blocks") / "blocks"
    save(Janus("blocks", network, small_tokenizer, special_ids(small_tokenizer.backend_tokenizer)), folder)
    return folder


def planned(plan: MemoryPlan) -> dict[str, int]:
    return {part.name: part.size for part in plan.parts if part.size}


def size(tensors: Iterator[Tensor]) -> int:
    return sum(storages(tensors).values())


@pytest.mark.parametrize("how", [{}, {"precision": "bfloat16"}, {"lora": LORA, "precision": "bfloat16"}])
def test_what_a_run_holds_is_planned_to_the_byte(folder: Path, tmp_path: Path, how: dict[str, object]) -> None:
    """Weights, gradients, optimizer, reference and KV cache of a run after its first step."""
    chosen = recipe(1, weights=how, output={"grid_every": 0})
    run = trainer(folder, tmp_path, chosen)
    run.run()
    weights, engine, reference = run._weights, storages(run._janus.network.parameters()), run._reference
    assert reference is not None
    trained = storages(weights.parameters.values())
    rest = storages(weights.network.parameters()).items()
    held = {
        "trained weights": sum(size for key, size in trained.items() if key not in engine),
        "frozen weights": sum(size for key, size in rest if key not in trained and key not in engine),
        "gradients": size(p.grad for p in weights.parameters.values() if p.grad is not None),
        "optimizer": size(value for own in run._optimizer.state.values() for value in own.values()),
        "reference": size(iter(reference.state_dict().values())),
        "KV cache": run._engine.cache.nbytes,
    }
    janus = WeightlessJanus.of("blocks", folder, torch.float32)
    found = planned(plan_grpo(janus, chosen, slots=4, ranks=ALONE, device=CPU))
    assert {name: found.get(name, 0) for name in held} == held


@pytest.mark.parametrize(
    ("ranks", "how"),
    [
        (ALONE, {}),
        (ALONE, {"activation_checkpointing": True}),
        (ALONE, {"precision": "bfloat16"}),
        (ALONE, {"lora": LORA, "precision": "bfloat16", "activation_checkpointing": True}),
        (TWO, {"precision": "bfloat16", "activation_checkpointing": True}),
    ],
)
def test_a_pass_takes_what_is_planned(ranks: Ranks, how: dict[str, object], folder: Path) -> None:
    """Forward and backward pass of a micro-batch, with a reference; for FSDP2, in a process of two."""
    check_a_pass(folder, recipe(weights=how, credit={"method": "guidance", "shuffled": True}), ranks)


def test_gradients_are_freed_as_soon_as_they_are_added_to_earlier_ones() -> None:
    """For one picture, `tiny-base` has larger gradients than activations and logits."""
    update = {"learning_rate": [{"at": 0, "value": 1e-3}], "micro_batch": 1}
    rollout = {"pairs": 2, "samples": 2, "guidance_scale": 1.0}
    how = {"activation_checkpointing": True}
    found = check_a_pass(SHIPPED / "tiny-base", recipe(rollout=rollout, update=update, weights=how, loss={}), ALONE)
    assert found.size("updating") < planned(found)["gradients"]


def check_a_pass(folder: Path, chosen: GRPORecipe, ranks: Ranks) -> MemoryPlan:
    """Hold the plan of an update against a measured one, and return it."""
    weightless = WeightlessJanus.of("model", folder, torch.float32, prompt_tokens=LENGTH)
    found = plan_grpo(weightless, chosen, slots=4, ranks=ranks, device=CPU)
    with without_processes(ranks):
        janus = load(folder, device="cpu")
        weights = open_weights(janus, ranks, chosen.weights)
        objective = Objective(janus, weights, chosen, weights.reference() if chosen.loss.beta else None)
        batch = micro_batch(weightless, chosen, ranks)

        def run() -> None:
            losses = objective.losses(batch, OldPolicy(batch.codes, filtered=False), Means())
            torch.autograd.backward(losses.sum())

        run()  # gradients are there from now on
        assert found.size("updating") == pytest.approx(peak_bytes(run, CPU), rel=0.05)
        names = planned(found)
        assert names["gradients"] == size(p.grad for p in weights.parameters.values() if p.grad is not None)
        if weights.sharded:
            assert names["trained weights"] == size(iter(weights.parameters.values()))
    return found


def test_ddp_keeps_a_second_copy_of_the_gradients(folder: Path) -> None:
    ranks, chosen = Ranks("ddp", 0, 2), recipe()
    janus = load(folder, device="cpu")
    with without_processes(TWO), profile(profile_memory=True) as profiled:
        weights = open_weights(janus, ranks, chosen.weights)
    events = profiled.profiler.kineto_results.events()
    kept = sum(event.nbytes() for event in events if event.name() == "[memory]")
    found = planned(
        plan_grpo(WeightlessJanus.of("blocks", folder, torch.float32), chosen, slots=4, ranks=ranks, device=CPU)
    )
    assert found["buckets"] == found["gradients"] == kept == sum(p.nbytes for p in weights.parameters.values())


def test_a_step_of_a_run_takes_what_is_planned(folder: Path, tmp_path: Path) -> None:
    """Prompts of real lengths, shared by the pictures of a micro-batch."""
    rollout = {"pairs": 1, "samples": 4, "guidance_scale": 2.0}
    chosen = recipe(rollout=rollout, ground_truth={"use": "none"})
    run = trainer(folder, tmp_path, chosen)
    samples = run._samples.of(0)
    advantages = advantages_of(samples, chosen)
    assert advantages.values.all()

    def step() -> None:
        run._objective.backward(samples, advantages, run._objective.old_policy(samples), Means())

    step()
    longest = max(len(run._janus.encode(prompt)) for prompt in samples.prompts())
    janus = WeightlessJanus.of("blocks", folder, torch.float32, prompt_tokens=longest)
    found = plan_grpo(janus, chosen, slots=4, ranks=ALONE, device=CPU)
    assert found.size("updating") == pytest.approx(peak_bytes(step, CPU), rel=0.1)


@pytest.mark.parametrize(("prompts", "length"), [(2, 4), (12, 200)])
def test_drawing_takes_what_is_planned(prompts: int, length: int, folder: Path) -> None:
    """Few prompts, and many that are read in parts; decoding pictures takes more."""
    params = recipe().rollout.params
    weightless = WeightlessJanus.of("blocks", folder, torch.float32, prompt_tokens=length)
    with without_processes(ALONE):
        found = list(drawing_parts(weightless, CPU, params, prompts=prompts, at_once=prompts))
    parts = {part.name: part.size for part in found}
    janus = load(folder, device="cpu")
    reader = PrefixReader(Decoder(janus, native=False), janus.ids, SideStream())
    waiting = [JobState(Job([1] * (length - number), None, (0,), params)) for number in range(prompts)]

    def read() -> None:
        while waiting:
            reader.begin(waiting, waiting)
            while waiting and reader.ready(waiting[0], wait=False):
                waiting.pop(0).prefixes = None

    reading = peak_bytes(read, CPU)
    image_tokenizer = ImageTokenizer(janus, native=False)
    codes = torch.zeros(pictures_at_once(janus.image_size, CPU), janus.image_tokens, dtype=torch.int64)
    decoding = peak_bytes(lambda: image_tokenizer.decode(codes), CPU)
    kept = size(tensor for own in reader._unconditional.values() for tensor in (own.keys, own.values, own.logits))
    assert parts["unconditional prefixes"] == kept
    assert sum(parts.values()) == pytest.approx(max(reading, kept + decoding), rel=0.05)
    assert parts["prompts"] == 0
    assert reading < kept + decoding


def test_sft_takes_what_is_planned(folder: Path) -> None:
    settings = {
        "steps": 1,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup": 0,
        "weight_decay": 0.0,
        "drop_prompt": 0.1,
    }
    chosen = SFTRecipe.model_validate(settings)
    weightless = WeightlessJanus.of("blocks", folder, torch.float32, prompt_tokens=LENGTH)
    found = plan_sft(weightless, chosen, ranks=ALONE, device=CPU)
    weights = open_weights(load(folder, device="cpu"), ALONE, chosen.weights)
    rows = torch.ones(4, LENGTH, dtype=torch.int64)
    mask = rows.clone()
    mask[0, 0] = 0  # prompts of one length would need no mask
    batch = Batch(rows, mask, torch.zeros(4, 64, dtype=torch.int64), torch.zeros(4, dtype=torch.bool))

    def run() -> None:
        logits = weights.logits(batch.ids, batch.mask, batch.codes)
        torch.autograd.backward(code_loss(logits, batch, unconditional_smoothing=0.0)[0])

    run()
    assert found.size("updating") == pytest.approx(peak_bytes(run, CPU), rel=0.05)
    names = planned(found)
    trained = sum(p.nbytes for p in weights.parameters.values())
    assert "trained weights" not in names  # they are those that are served
    assert names["average"] == names["gradients"] == trained
    assert names["optimizer"] == 2 * trained + 4 * len(weights.parameters)  # and the number of steps of each


def test_all_of_7b_that_draws_pictures_is_trained(tmp_path: Path) -> None:
    """6.59 billion numbers, counted by hand, an eighth of them in each of eight processes."""
    geometry = GEOMETRIES["janus-pro-7b"]
    width, codes = geometry.hidden, 16384
    block = 4 * width**2 + 3 * width * geometry.intermediate + 2 * width
    inputs = codes * 8 + (8 * width + width) + (width**2 + width)
    head = (width**2 + width) + (width * codes + codes)
    numbers = geometry.layers * block + width + geometry.vocabulary * width + inputs + head
    assert round(numbers / 1e9, 2) == 6.59
    geometry_config("janus-pro-7b").save_pretrained(tmp_path)
    janus, ranks = WeightlessJanus.of("7b", tmp_path, torch.bfloat16), Ranks("fsdp", 0, 8)
    with without_processes(ranks):
        weights = open_weightless(janus, ranks, WeightsRecipe(precision="bfloat16"))
        optimizer = torch.optim.AdamW(weights.parameters.values(), fused=True)
        needs = footprint(janus.network.config, janus.dtype, torch.device("cuda"))
        parts = {part.name: part.size for part in weight_parts(janus, weights, needs, [optimizer], ranks)}
    assert sum(p.numel() for p in weights.parameters.values()) == numbers
    everything = sum(p.numel() for p in janus.network.parameters())
    assert parts["served weights"] == pytest.approx(2 * everything, rel=0.02)  # and tables
    assert parts["trained weights"] == parts["gradients"] == pytest.approx(4 * numbers / 8, rel=1e-4)
    assert parts["optimizer"] == pytest.approx(2 * 4 * numbers / 8, rel=1e-4)


def test_a_ledger_counts_what_is_held_at_once(folder: Path) -> None:
    """Views are part of what they are views of; what was there before counts neither when used nor when freed."""
    janus = WeightlessJanus.of("blocks", folder, torch.float32)
    with janus.mode:
        before = torch.zeros(1000)
        with Ledger(lambda tensor: str(tensor.dtype)) as ledger:
            seen = before.view(10, 100)
            first = torch.zeros(1000, dtype=torch.float64)
            second = first + 1
            del first
            third = second.view(100, 10)[1:] * 2  # takes the place of the first
            whole = seen.half()
            second.untyped_storage().resize_(0)
            assert ledger.held == {"torch.float64": 7920, "torch.float16": 2000}
            del before, seen, second, third, whole
            assert ledger.held.total() == 0
    assert ledger.peak == {"torch.float64": 8000 + 7920, "torch.float16": 2000}


def test_a_plan_is_as_large_as_its_largest_moment() -> None:
    plan = MemoryPlan(
        (Part("held", "a", 3 * GIB, ""), Part("drawing", "b", 2 * GIB, ""), Part("updating", "c", GIB, ""))
    )
    assert plan.total == 5 * GIB + ALLOWANCE
    assert plan.fits(plan.total / GIB)
    assert not plan.fits(plan.total / GIB - 0.01)
    assert list(plan.lines(1))[-1].startswith("does not fit in 1 GiB: ")


def test_the_command_plans_from_a_configuration_alone(
    folder: Path, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(folder / "config.json", model)
    run = ("--model", model, "--recipe", "paper", "--parallel", "fsdp", "--processes", "8", "--slots", "32", "--plan")
    ended = command(main, "grpo", *run)
    assert ended.code == 0, ended.err
    for name in ("served weights", "trained weights", "optimizer", "reference", "KV cache", "activations", "logits"):
        assert name in ended.out
    assert "fits in 80 GiB" in ended.out
    ended = command(main, "sft", "--model", model, "--recipe", "world", "--plan", "--gpu-memory", "1")
    assert ended.code == 1
    assert "does not fit in 1 GiB" in ended.out
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "nothing"), "nothing: no config.json"),
        (("--recipe", "nothing"), "no recipe 'nothing'"),
        (("--parallel", "ddp", "--processes", "5"), "rollout.pairs is 4: too few for 5 processes"),
        (("--parallel", "fsdp"), "--plan needs the number of processes with --parallel fsdp"),
        (("--processes", "2"), "2 processes need --parallel"),
        (("--slots", "0"), "--slots must be at least 1, not 0"),
        (("--prompt-tokens", "999"), "--prompt-tokens must be 2 to 256, not 999"),
        (("--gpu-memory", "0"), "--gpu-memory must be above 0, not 0"),
        (("--device", "cpu"), "--device must be auto or cuda, not cpu"),
    ],
)
def test_what_cannot_be_planned_is_named(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    command: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    ended = command(main, "grpo", "--model", "tiny-base", "--plan", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert ended.out == ""


def test_lora_is_not_planned_for_fsdp(command: Callable[..., Ended]) -> None:
    run = ("--model", "tiny", "--recipe", "janus_pro_lora", "--parallel", "fsdp", "--processes", "2", "--plan")
    ended = command(main, "sft", *run)
    assert ended.code == 2
    assert "weights.lora" in ended.err


def test_a_run_needs_a_folder(command: Callable[..., Ended]) -> None:
    ended = command(main, "grpo", "--model", "tiny-base")
    assert ended.code == 2
    assert "--out is missing" in ended.err
