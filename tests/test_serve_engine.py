"""The engine: images equal the reference loop's whatever runs beside them; slots, queue and memory stay consistent."""

import random
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from torch import Tensor

from model.checkpoints.load import load
from model.checkpoints.save import save
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.kv_cache import Prefix
from model.params import SamplingParams
from serve.engine.engine import Engine
from serve.engine.events import Ended, Event, Failed, Finished, Started
from serve.engine.job import Job, JobState
from serve.engine.scheduler import Scheduler
from tests.drawing import GREEDY, SETTINGS, Clock, codes_of, job, reference_codes, run
from tests.random_windows import RandomWindows
from tests.tools import needs_compiler


@pytest.fixture(scope="module")
def prompts(golden: Mapping[str, Tensor]) -> list[list[int]]:
    return [golden[f"prompt{i}.input_ids"].tolist() for i in range(3)]


@pytest.mark.parametrize("seed", range(2))
def test_each_image_equals_the_reference_loop(deepseek: Janus, prompts: list[list[int]], seed: int) -> None:
    """Jobs with random prompts, seeds and negative prompts, in mixed settings, arrive nine steps apart at 3 slots."""
    rng = random.Random(seed)
    arrivals = []
    for number in range(10):
        seeds = [rng.randrange(2**53) for _ in range(rng.choice((1, 1, 2, 3)))]
        negative = rng.choice((None, None, prompts[rng.randrange(3)]))
        params = SETTINGS[(number + seed) % len(SETTINGS)]
        arrivals.append((9 * number, job(prompts[rng.randrange(3)], params, *seeds, negative=negative)))
    expected = [reference_codes(deepseek, one) for _, one in arrivals]
    for native in (True, False):
        for windows in (None, RandomWindows(seed), RandomWindows(seed, widest=32)):
            engine = Engine(deepseek, slots=3, native=native)
            engine._windows = windows
            assert list(map(codes_of, run(engine, arrivals))) == expected, (native, windows)
            assert not engine.scheduler.running
            assert windows is None or windows.codes > windows.steps > 0  # some guesses were right


def test_codes_equal_the_original_implementation(
    deepseek: Janus, golden: Mapping[str, Tensor], prompts: list[list[int]]
) -> None:
    """All prompts drawn together give the greedy codes of the original implementation."""
    params = SamplingParams(guidance_scale=5, temperature=0)
    heard = run(Engine(deepseek, slots=4), [(i, job(prompt, params, i)) for i, prompt in enumerate(prompts)])
    for i, events in enumerate(heard):
        assert codes_of(events)[0] == tuple(golden[f"prompt{i}.greedy_tokens"].tolist())


def watch_prefill(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Returns a list to which every later prefill appends the lengths of its prompts."""
    read: list[list[int]] = []
    prefill = engine.decoder.prefill

    def watched(rows: list[list[int]]) -> list[Prefix]:
        read.append(list(map(len, rows)))
        return prefill(rows)

    monkeypatch.setattr(engine.decoder, "prefill", watched)
    return read


def test_images_of_one_job_start_in_order_and_share_a_prefill(
    deepseek: Janus, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(deepseek, slots=2)
    read = watch_prefill(engine, monkeypatch)
    other = [prompts[0][0], *prompts[0][-2:0:-1], prompts[0][-1]]  # the same length, hence the same unconditional row
    first, second = run(engine, [(0, job(prompts[0], GREEDY, 1, 2, 3, 4, 5)), (1, job(other, GREEDY, 6))])
    assert [e.index for e in first if isinstance(e, Started)] == [0, 1, 2, 3, 4]
    length = len(prompts[0])
    assert read == [[length, length], [length]]  # prompt and unconditional row once; then only the other prompt
    assert len(codes_of(second)) == 1


def test_prompts_that_arrive_together_share_a_prefill(
    deepseek: Janus, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four jobs with three prompts take one pass over prompts and unconditional rows, several under a token limit."""
    engine = Engine(deepseek, slots=4)
    read = watch_prefill(engine, monkeypatch)
    jobs = [job(prompts[i % 3], GREEDY, i) for i in range(4)]
    together = run(engine, [(0, one) for one in jobs])
    lengths = sorted(2 * [len(prompt) for prompt in prompts])
    assert read == [lengths]
    read.clear()
    monkeypatch.setattr("serve.engine.prefixes.PREFILL_TOKENS", 12)
    engine._prefixes.clear()
    assert list(map(codes_of, run(engine, [(0, one) for one in jobs]))) == list(map(codes_of, together))
    assert {length for part in read for length in part} == set(lengths)
    assert all(len(part) * max(part) <= 12 or len(part) == 1 for part in read)
    assert any(len(part) > 1 for part in read)


def test_few_prefixes_are_held_at_once(
    deepseek: Janus, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that arrive together are read in parts, and each part's prefixes go into the cache before the next is read."""
    engine = Engine(deepseek, slots=8)
    jobs = [job([1, *range(20 + i, 28 + i), 2], GREEDY, i) for i in range(8)]
    together = list(map(codes_of, run(engine, [(0, one) for one in jobs])))
    limit = sum(len(one.prompt) for one in jobs) // 2  # that of two jobs, with and without prompt
    monkeypatch.setattr("serve.engine.prefixes.PREFILL_TOKENS", limit)
    held: list[int] = []
    made: list[weakref.ref[Prefix]] = []
    prefill = engine.decoder.prefill

    def watched(rows: list[list[int]]) -> list[Prefix]:
        found = prefill(rows)
        made.extend(map(weakref.ref, found))
        held.append(sum(prefix.length for one in made if (prefix := one()) is not None))
        return found

    monkeypatch.setattr(engine.decoder, "prefill", watched)
    monkeypatch.setattr("serve.engine.prefixes.UNCONDITIONAL_BYTES", 0)
    engine._prefixes.clear()
    assert list(map(codes_of, run(engine, [(0, one) for one in jobs]))) == together
    assert len(held) > 3
    longest = max(len(one.prompt) for one in jobs)
    assert max(held) <= limit + longest  # and the unconditional prefix that is kept


def test_images_start_in_order_of_arrival(deepseek: Janus, prompts: list[list[int]]) -> None:
    """One row is free, enough for the third image, which is unguided; but the guided second one arrived before it."""
    engine = Engine(deepseek, slots=1)
    order: list[int] = []
    unguided = SamplingParams(guidance_scale=1, temperature=0)
    states = [engine.submit(job(prompts[0], params, 0)) for params in (unguided, GREEDY, unguided)]
    while not engine.idle:
        order += [states.index(state) for state, event in engine.step() if isinstance(event, Started)]
    assert order == [0, 1, 2]


def test_the_jobs_that_come_next_are_those_that_are_admitted() -> None:
    """Guided and unguided jobs of one to three images arrive and end at random, so that single rows are free."""
    rng = random.Random(0)
    scheduler = Scheduler(rows=12, tokens=16)
    alone = 0
    for _ in range(500):
        if len(scheduler.waiting) < 4:
            scheduler.submit(JobState(job([1], rng.choice((SETTINGS[1], GREEDY)), *range(rng.choice((1, 1, 3))))))
        for slot in [slot for slot in scheduler.running if rng.random() < 0.1]:
            scheduler.release(slot)
        coming = list(scheduler.coming())
        alone += bool(scheduler.free_rows) and not coming
        assert coming == list(dict.fromkeys(slot.state for slot in scheduler.admit(lambda _: True)))
    assert alone > 0


def test_an_unguided_image_takes_the_free_row_of_a_used_pair() -> None:
    """Two unguided images then leave a pair of rows for a guided one."""
    scheduler = Scheduler(rows=4, tokens=16)
    for params in (SETTINGS[1], SETTINGS[1], GREEDY):
        scheduler.submit(JobState(job([1], params, 0)))
    assert [slot.rows for slot in scheduler.admit(lambda _: True)] == [(0,), (1,), (2, 3)]
    assert scheduler.free_rows == 0


@needs_compiler
def test_int8_draws_the_same_codes_alone_and_together(deepseek_folder: Path, prompts: list[list[int]]) -> None:
    """Not those of float weights. Tests of the decoder compare logits with those of rounded weights."""
    jobs = [job(prompts[0], GREEDY, 1), job(prompts[1], SETTINGS[2], 7, 8), job(prompts[2], SETTINGS[4], 9)]
    janus = load(deepseek_folder, device="cpu")
    floats = [reference_codes(janus, one) for one in jobs]
    engine = Engine(janus, slots=2, quantization="int8", release=True)
    together = run(engine, [(0, jobs[0]), (2, jobs[1]), (5, jobs[2])])
    alone = [run(engine, [(0, one)])[0] for one in jobs]
    assert [codes_of(events) for events in together] == [codes_of(events) for events in alone]
    assert [codes_of(events) for events in together] != floats


@pytest.mark.parametrize("seed", range(3))
def test_the_predicted_wait_is_exact_to_the_code(deepseek: Janus, prompts: list[list[int]], seed: int) -> None:
    """Jobs of one to three guided images arrive at random steps of one code; each starts at the predicted one."""
    rng = random.Random(seed)
    engine = Engine(deepseek, slots=2, jacobi=False)
    foretold: dict[JobState, int] = {}
    began: dict[JobState, int] = {}
    for step in range(400):
        if step < 150 and rng.random() < 0.08:
            wait = engine.scheduler.codes_to_wait
            foretold[engine.submit(job(prompts[0], GREEDY, *range(rng.choice((1, 1, 2, 3)))))] = step + wait
        for state, event in engine.step():
            if isinstance(event, Started) and event.index == 0:
                began[state] = step
    assert len(began) > 2
    assert began == {request: step for request, step in foretold.items() if request in began}


def test_a_logit_that_is_not_finite_fails_its_own_image(
    deepseek: Janus, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(deepseek, slots=3, jacobi=False)
    step, jobs = engine.decoder.step, [job(prompt, SETTINGS[2], i) for i, prompt in enumerate(prompts)]
    poisoned = 0

    def poison(*arguments: object) -> Tensor:
        nonlocal poisoned
        logits: Tensor = step(*arguments)  # type: ignore[arg-type]
        poisoned += 1
        if poisoned == 5:
            logits[3, 7] = torch.nan  # the second image's unconditional row
        return logits

    monkeypatch.setattr(engine.decoder, "step", poison)
    heard = run(engine, [(0, one) for one in jobs])
    assert codes_of(heard[0]) == reference_codes(deepseek, jobs[0])
    assert codes_of(heard[2]) == reference_codes(deepseek, jobs[2])
    (failure,) = [event for event in heard[1] if isinstance(event, Failed)]
    assert "not a finite number" in failure.reason
    monkeypatch.undo()
    again = run(engine, [(0, one) for one in jobs])
    assert codes_of(again[1]) == reference_codes(deepseek, jobs[1])  # the rows can be used again


def test_a_job_whose_deadline_has_passed_fails_before_it_starts(deepseek: Janus, prompts: list[list[int]]) -> None:
    engine = Engine(deepseek, slots=1)
    late = engine.submit(Job(prompts[0], None, (1, 2), GREEDY, deadline=time.monotonic() - 1))
    engine.submit(job(prompts[1], GREEDY, 3))
    events = engine.step()
    assert [type(e) for r, e in events if r is late] == [Ended]
    assert late.status == "failed"
    assert [r for r, e in events if isinstance(e, Started)] != [late]


def test_a_deadline_that_passes_while_drawing_frees_the_rows_at_the_next_step(
    deepseek: Janus, prompts: list[list[int]]
) -> None:
    clock = Clock()
    engine = Engine(deepseek, slots=1, clock=clock)
    late = engine.submit(Job(prompts[0], None, (1,), GREEDY, deadline=10.0))
    next_one = engine.submit(job(prompts[1], GREEDY, 3))
    clock.now = 9.9
    assert [type(event) for _, event in engine.step()] == [Started]
    clock.now = 10.0
    events = engine.step()
    assert [(request, type(event)) for request, event in events] == [(late, Ended), (next_one, Started)]
    assert late.status == "failed"


def test_loading_other_weights_changes_codes_and_pixels(deepseek_folder: Path, prompts: list[list[int]]) -> None:
    """The engine and the reference loop share the model's weights, so both draw with the new ones."""
    janus, others = load(deepseek_folder, device="cpu"), load(deepseek_folder, device="cpu")
    with torch.no_grad():
        for parameter in others.network.parameters():
            parameter.mul_(0.9)
    engine = Engine(janus, slots=1)
    one = job(prompts[0], GREEDY, 1)
    before = codes_of(run(engine, [(0, one)])[0])
    engine.load_weights(others.network)
    events = run(engine, [(0, one)])[0]
    after = codes_of(events)
    assert before != after == reference_codes(others, one) == reference_codes(janus, one)
    (picture,) = (event.picture for event in events if isinstance(event, Finished))
    as_before = ImageTokenizer(load(deepseek_folder, device="cpu")).images(torch.tensor(after))[0]
    assert np.array_equal(np.asarray(picture), ImageTokenizer(others).images(torch.tensor(after))[0])
    assert not np.array_equal(np.asarray(picture), as_before)


def test_a_network_can_be_saved_while_it_is_served(tmp_path: Path, deepseek_folder: Path) -> None:
    janus = load(deepseek_folder, device="cpu")
    Engine(janus, slots=1)
    save(janus, tmp_path / "saved")
    saved = dict(load(tmp_path / "saved", device="cpu").network.named_parameters())
    for name, parameter in janus.network.named_parameters():
        assert torch.equal(saved[name], parameter), name


class Arrivals(RuleBasedStateMachine):
    """Random arrivals, cancellations, deadlines and steps: no job or row is lost, no image ends twice."""

    janus: Janus
    prompts: list[list[int]]

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()  # a step takes one second, so that deadlines do not depend on how busy the machine is
        self.engine = Engine(self.janus, slots=2, clock=self.clock)
        self.open: dict[JobState, list[Event]] = {}
        self.closed: set[JobState] = set()

    @rule(
        n=st.integers(1, 4),
        params=st.sampled_from(SETTINGS),
        which=st.integers(0, 2),
        patience=st.none() | st.integers(0, 60),
    )
    def arrive(self, n: int, params: SamplingParams, which: int, patience: int | None) -> None:
        deadline = None if patience is None else self.clock.now + patience
        one = Job(self.prompts[which], None, tuple(range(n)), params, deadline=deadline)
        self.open[self.engine.submit(one)] = []

    @precondition(lambda self: self.open)
    @rule(choice=st.randoms(use_true_random=False))
    def cancel(self, choice: random.Random) -> None:
        request = choice.choice(list(self.open))
        self.engine.cancel(request)
        del self.open[request]
        self.closed.add(request)

    @rule(count=st.integers(1, 30))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.clock.now += 1
            for state, event in self.engine.step():
                assert state not in self.closed, event
                events = self.open[state]
                events.append(event)
                if isinstance(event, Ended):
                    images = [e for e in events if isinstance(e, Finished | Failed)]
                    assert (len(images) == state.job.images) == (event.cause is None)
                    self.closed.add(state)
                    del self.open[state]

    @invariant()
    def rows_are_neither_lost_nor_shared(self) -> None:
        scheduler = self.engine.scheduler
        used = [row for slot in scheduler.running for row in slot.rows]
        assert len(used) == len(set(used))
        assert len(used) + scheduler.free_rows == self.engine.cache.rows
        assert scheduler.codes_to_wait >= 0
        assert scheduler.waiting_images == sum(one.job.images - one.admitted for one in scheduler.waiting)
        for slot in scheduler.running:
            assert len(slot.rows) == (2 if slot.state.job.params.guided else 1)
            assert slot.state in self.open

    @invariant()
    def every_open_request_waits_or_runs(self) -> None:
        scheduler = self.engine.scheduler
        present = {slot.state for slot in scheduler.running} | set(scheduler.waiting)
        assert present == set(self.open)
        for events in self.open.values():
            ended = [e.index for e in events if isinstance(e, Finished | Failed)]
            assert len(ended) == len(set(ended))

    def teardown(self) -> None:
        for _ in range(2000):  # the open jobs take a few hundred steps
            if not self.engine.idle:
                self.steps(1)
        assert not self.open
        assert self.engine.scheduler.free_rows == self.engine.cache.rows


def test_random_arrivals_cancellations_and_deadlines(deepseek: Janus, prompts: list[list[int]]) -> None:
    Arrivals.janus, Arrivals.prompts = deepseek, prompts
    run_state_machine_as_test(Arrivals, settings=settings(max_examples=25, stateful_step_count=20, deadline=None))
