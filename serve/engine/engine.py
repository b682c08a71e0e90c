"""The engine: every step samples at least one code of every running image.

drop overdue → decode → guide, filter, sample → prefill → admit → sample first codes → previews, finished pictures
"""

import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import JanusForConditionalGeneration

from model.decoder import Decoder
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.quantization import Quantization
from model.sampler.sampler import Sampler
from serve.engine.batch import Batch, first_rows
from serve.engine.deadlines import Deadlines
from serve.engine.events import Ended, Event, Failed, Finished, Preview, Started
from serve.engine.job import Job, JobState, Status
from serve.engine.pace import Pace, StreamPace
from serve.engine.prefixes import AHEAD_TOKENS, PrefixReader
from serve.engine.previews import PreviewBudget
from serve.engine.scheduler import Scheduler
from serve.engine.side_stream import CudaSideStream, SideStream
from serve.engine.side_work import Events, SideWork
from serve.engine.slot import Slot
from serve.engine.step_times import StepTimes
from serve.engine.twins import Twins
from serve.engine.windows import Step, WindowChooser

if TYPE_CHECKING:
    from model.cuda.batch import KernelBatch
    from model.cuda.graphs import StepGraphs


class Engine:
    """One model on one device, and everything that is being drawn with it. Not thread-safe: one thread owns it.

    Args:
        janus: the model.
        slots: guided images drawn at once; twice as many unguided ones.
        native: whether C functions may be used (`model.decoder.Decoder`, `model.image_tokenizer.ImageTokenizer`,
            `model.sampler.sampler.Sampler`).
        quantization: of the decoder's matrices (`model.decoder.Decoder`).
        jacobi: whether a step may compute several places of an image, as if guesses of the codes between were right
            (`model.sampler.sampler`). Pictures are the same, sooner where it pays.
        release: whether the model's own matrices may be freed, so that only this engine can compute with it.
        logprobs: whether `Finished` carries the log-probabilities of the codes.
        kernels: whether Triton kernels decode and draw (`model.decoder.Decoder`).
        device: to which the model is moved, if that is another one (`model.decoder.Decoder`).
        clock: seconds; the deadlines of jobs are times of this clock.
    """

    def __init__(
        self,
        janus: Janus,
        *,
        slots: int = 16,
        native: bool = True,
        quantization: Quantization | None = None,
        jacobi: bool = True,
        release: bool = False,
        logprobs: bool = False,
        kernels: bool | None = None,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.janus = janus
        self._clock = clock
        self.decoder = Decoder(
            janus, native=native, quantization=quantization, release=release, kernels=kernels, device=device
        )
        self.image_tokenizer = ImageTokenizer(janus, native=native)
        spare = self.decoder.kernels is not None  # a row that captured steps write to when their batch is not full
        self.cache = self.decoder.cache(2 * slots + spare, janus.max_prompt_tokens + janus.image_tokens)
        self.scheduler = Scheduler(rows=2 * slots, tokens=janus.image_tokens)
        self._sampler = Sampler(
            rows=2 * slots,
            tokens=janus.image_tokens,
            vocabulary=janus.codebook_size,
            grid=janus.grid,
            device=janus.device,
            native=native,
            kernels=self.decoder.kernels is not None,
            logprobs=logprobs,
        )
        self._graphs = self._capture()
        self._logprobs = logprobs
        on_gpu = janus.device.type == "cuda"
        # a stream for prompts and one for pictures: no image waits to begin because others have ended
        for_prompts, for_pictures = (CudaSideStream(janus.device) if on_gpu else SideStream(clock) for _ in range(2))
        self._prefixes = PrefixReader(
            self.decoder, janus.ids, for_prompts, ahead=AHEAD_TOKENS if self.decoder.kernels else 0
        )
        self._deadlines = Deadlines()
        self._times = StepTimes(clock)
        self._preview_budget = PreviewBudget(janus.image_tokens)
        self._pace = StreamPace() if on_gpu else Pace()
        self._side_work = SideWork(for_pictures)
        # PyTorch's attention on a CPU takes each code of a window by itself, which never pays
        times = self._times  # not `self`: an engine that is dropped must free its memory at once
        self._windows = (
            WindowChooser(janus.image_tokens, lambda: times.ending_apart)
            if jacobi and (self.decoder.is_native or self.decoder.kernels)
            else None
        )
        self._twins = Twins()
        self._batch = Batch.of([], [], self._sampler)

    @property
    def slots(self) -> int:
        """Guided images drawn at once."""
        return self.scheduler.rows // 2

    @property
    def wait_seconds(self) -> float:
        """Estimated wait of a job submitted now, from recent step times."""
        return self._times.estimate(self.scheduler.codes_to_wait, images=self.scheduler.waiting_images)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return self._draws_nothing and self._side_work.idle

    @property
    def _draws_nothing(self) -> bool:
        return not self.scheduler.waiting and not self.scheduler.running

    @property
    def held_bytes(self) -> int:
        """Memory of weights, tables computed from them and the KV cache, in bytes."""
        return self.decoder.weight_bytes + self.image_tokenizer.table_bytes + self.cache.nbytes

    def load_weights(self, network: JanusForConditionalGeneration) -> None:
        """Draw with other weights of the same shapes from the next step on.

        Raises:
            RuntimeError: jobs are waiting or running.
        """
        if not self.idle:
            raise RuntimeError("weights can be changed only while nothing is being drawn")
        self.decoder.load_weights(network)
        self.image_tokenizer.load_weights()
        self._prefixes.clear()
        self._twins.clear()

    def submit(self, job: Job) -> JobState:
        """Put a job at the end of the queue."""
        state = JobState(job)
        self.scheduler.submit(state)
        self._deadlines.add(state)
        return state

    def cancel(self, state: JobState) -> None:
        """Drop a job: its slots are free from now on, and no event of it follows."""
        if state.live:
            self._drop(state, "cancelled")
            self._rebuild_batch()

    @torch.inference_mode()
    def step(self) -> list[tuple[JobState, Event]]:
        """Sample the next codes of every running image; start waiting images while there is room."""
        timed: int | None = None  # codes that the step was fed, if what it takes is wanted
        with self._times.step():
            self._pace.begin()
            events = self._fail_overdue()
            if self._windows is not None and self._windows.due:
                self._choose_widths()
            slots, fed = self._batch.slots, self._batch.sampler.rows.count
            windows, confirmed = self._advance()
            entering = self._admit() if self.scheduler.waiting else []
            events += [(slot.state, Started(slot.index)) for slot in entering]
            if self.scheduler.running:
                self._make_previews()
                self._collect()
            plain = not events and self._side_work.idle and self._prefixes.idle
            events += self._side_work.collect(wait=self._draws_nothing)
        if self._windows is not None and slots and not entering:
            timed = self._windows.note(Step(slots, windows, confirmed, fed, plain))
        for one, seconds in self._pace.end(timed, self._times.latest):
            if self._windows is not None:
                self._windows.costs.add(one, seconds)
        self._preview_budget.earn(self._times.latest, self._times.decoding)
        return events

    def _fail_overdue(self) -> list[tuple[JobState, Event]]:
        """End the jobs whose deadline has passed, waiting or running."""
        overdue = self._deadlines.pop_due(self._clock())
        for state in overdue:
            self._drop(state, "failed")
        if overdue:
            self._rebuild_batch()
        return [(state, Ended("deadline", "the deadline passed")) for state in overdue]

    def _advance(self) -> tuple[list[int], Sequence[int]]:
        """Decode and sample the running images. Returns their windows, and how many codes each gained."""
        batch, tokens = self._batch, self.janus.image_tokens
        if not batch.slots:
            return [], []
        windows = [min(width, tokens - slot.sampled) for slot, width in zip(batch.slots, batch.widths, strict=True)]
        confirmed = self._decode_and_sample(batch)
        for slot, codes in zip(batch.slots, confirmed, strict=True):
            slot.sampled += codes
            slot.gained = codes
        self._times.codes = sum(confirmed) / len(confirmed)
        return windows, confirmed

    def _decode_and_sample(self, batch: Batch) -> Sequence[int]:
        if self._graphs is not None:
            return self._graphs(cast("KernelBatch", batch.sampler))
        return batch.sampler.sample(self.decoder.step(batch.sampler.codes, batch.sampler.rows, self.cache))

    def _admit(self) -> list[Slot]:
        """Give slots to waiting images whose prompts are read, fill their rows, and sample their first codes."""
        entering: list[Slot] = []
        logits: list[Tensor] = []
        with self._times.starting(entering):
            while slots := self._give_slots():
                entering += slots
                logits += chain.from_iterable(map(self._fill, slots))
            if not entering:
                return []
            self._sampler.begin(first_rows(entering))
            self._guess(entering)
            Batch.of(entering, [1] * len(entering), self._sampler).sampler.sample(torch.stack(logits))
            for slot in entering:
                slot.sampled = slot.gained = 1
            self._rebuild_batch()
        return entering

    def _give_slots(self) -> list[Slot]:
        """Slots of the next images whose prompts are read; steps wait for a prompt only if there is nothing else to draw."""
        self._prefixes.begin(self.scheduler.coming(), self.scheduler.waiting)
        alone = not self.scheduler.running
        return self.scheduler.admit(lambda state: self._prefixes.ready(state, wait=alone))

    def _fill(self, slot: Slot) -> list[Tensor]:
        """Copy a slot's prefixes into its rows; returns the logits of the first codes."""
        prefixes = slot.state.prefixes
        assert prefixes is not None
        slot.prompt_lengths = tuple(prefix.length for prefix in prefixes)
        for row, prefix in zip(slot.rows, prefixes, strict=True):
            self.cache.begin(row, prefix)
        if slot.index + 1 == slot.state.job.images:
            slot.state.prefixes = None
        return [prefix.logits for prefix in prefixes]

    def _guess(self, entering: Sequence[Slot]) -> None:
        """Let codes of finished pictures with the same seeds be guesses."""
        if self._windows is None:
            return
        for slot in entering:
            if codes := self._twins.codes(slot.seed):
                self._sampler.guess(slot.rows[0], codes)
                slot.has_twin = True

    def _make_previews(self) -> None:
        """Draw pictures of the rows sampled so far, where they were asked for and the budget allows."""
        asked = [(slot, slot.preview_row(self.janus.grid)) for slot in self._batch.previewed]
        due = {slot: row for slot, row in asked if row is not None}
        if not due:
            return
        alone = len({slot.state for slot in self._batch.slots}.union(self.scheduler.waiting)) == 1
        chosen = self._preview_budget.choose(list(due), alone=alone)
        if not chosen:
            return
        rows = [due[slot] for slot in chosen]
        codes = self._sampler.codes(first_rows(chosen))
        for slot in chosen:
            slot.previews += 1

        def previews(tensors: Sequence[Tensor], seconds: float) -> Events:
            self._preview_budget.spend(seconds, len(chosen), alone=alone)
            return [
                (slot.state, Preview(slot.index, count, Image.fromarray(picture)))
                for slot, count, picture in zip(chosen, rows, tensors[0].numpy(), strict=True)
                if slot.state.live
            ]

        self._side_work.add(lambda: [self.image_tokenizer.previews(codes, rows)], previews)

    def _collect(self) -> None:
        """Draw pictures of the images that are complete; their slots are free from now on."""
        complete = [slot for slot in self.scheduler.running if slot.sampled == self.janus.image_tokens]
        if not complete:
            return
        with self._times.ending(complete):
            rows = first_rows(complete)
            # a new image may overwrite them while the picture is drawn
            codes, finite = self._sampler.codes(rows), self._sampler.finite(rows)
            logprobs = self._sampler.logprobs(rows) if self._logprobs else codes.new_empty(len(rows), 0)
            self._side_work.add(
                lambda: [self.image_tokenizer.images(codes), codes, finite, logprobs],
                lambda tensors, seconds: self._end(complete, *tensors),
            )
            for slot in complete:
                self.scheduler.release(slot)
            self._rebuild_batch()

    def _end(
        self, complete: Sequence[Slot], pictures: Tensor, codes: Tensor, finite: Tensor, logprobs: Tensor
    ) -> Events:
        """Events of images that are complete."""
        events: Events = []
        for slot, picture, own, sound, likely in zip(
            complete, pictures.numpy(), codes.tolist(), finite.tolist(), logprobs.tolist(), strict=True
        ):
            if not slot.state.live:
                continue
            if sound:
                self._twins.add(slot.seed, tuple(own))
                events.append((slot.state, Finished(slot.index, Image.fromarray(picture), tuple(own), tuple(likely))))
            else:
                events.append((slot.state, Failed(slot.index, "the model gave a logit that is not a finite number")))
            if slot.state.end_image():
                events.append((slot.state, Ended()))
        return events

    def _drop(self, state: JobState, status: Status) -> None:
        state.status = status
        state.prefixes = None
        self.scheduler.drop(state)

    def _rebuild_batch(self) -> None:
        slots = [slot for slot in self.scheduler.running if slot.sampled < self.janus.image_tokens]
        widths = [1] * len(slots) if self._windows is None else self._windows.choose(slots)
        self._batch = Batch.of(slots, widths, self._sampler)

    def _capture(self) -> "StepGraphs | None":
        if self.decoder.kernels is None:
            return None
        from model.cuda.graphs import StepGraphs

        return StepGraphs(self.decoder.kernels, self._sampler, self.cache)

    def _choose_widths(self) -> None:
        if self._windows is None:
            return
        widths = self._windows.choose(self._batch.slots)
        if widths != self._batch.widths:
            self._batch = self._batch.widened(widths)
