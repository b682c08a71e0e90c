"""The engine: every step draws one code of every running image.

drop overdue → admit → prefill ┐
              decode ──────────┴→ guide, filter, sample → previews, finished pictures
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count

import torch
from PIL import Image
from torch import Tensor
from transformers import JanusForConditionalGeneration

from model.attention import Rows
from model.decoder import Decoder
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from model.kv_cache import Prefix
from model.prompt import unconditional_row
from model.sampler import Draws, Sampler
from serve.events import Event, Failed, Finished, Preview, Started
from serve.request import Job, Request, Slot
from serve.scheduler import Scheduler

_UNCONDITIONAL_KEPT = 64  # lengths
_DEADLINES_KEPT = 256  # of requests that have ended
_PREFILL_TOKENS = 4096  # handed over at once, so that a crowd of newcomers does not take all memory
_PREVIEW_SHARE = 0.05  # of the time, while others are being drawn or wait


@dataclass(frozen=True)
class Batch:
    """The running images as the device needs them; rebuilt only when one joins or leaves.

    `previewed` are those of which pictures on the way were asked for.
    """

    running: tuple[Slot, ...]
    previewed: tuple[Slot, ...]
    rows: Rows
    draws: Draws

    @classmethod
    def of(cls, running: Sequence[Slot], sampler: Sampler, device: torch.device) -> "Batch":
        """From the scheduler's running slots."""
        return cls(
            tuple(running),
            tuple(slot for slot in running if slot.request.job.preview_rows),
            Rows.of([r for s in running for r in s.rows], [p for s in running for p in s.positions], device),
            sampler.draws(
                _places(running),
                [len(slot.rows) for slot in running],
                [slot.request.job.params for slot in running],
                [slot.seed for slot in running],
                [slot.drawn for slot in running],
            ),
        )


def _places(slots: Sequence[Slot]) -> list[int]:
    """Where the sampler keeps them: at the first row of each."""
    return [slot.rows[0] for slot in slots]


class Engine:
    """One model, one device, and everything that is being drawn on it. Not thread-safe: one thread owns it.

    Args:
        janus: the model.
        images: how many guided images are drawn at once; twice as many unguided ones.
        compiled: see `model.decoder.Decoder` and `model.image_tokenizer.ImageTokenizer`.
        int8: likewise.
        clock: seconds; deadlines are times of it.
    """

    def __init__(
        self,
        janus: Janus,
        *,
        images: int = 16,
        compiled: bool = True,
        int8: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.janus = janus
        self._clock = clock
        self.decoder = Decoder(janus, compiled=compiled, int8=int8)
        self.image_tokenizer = ImageTokenizer(janus, compiled=compiled)
        spare = janus.device.type == "cuda"  # for captured steps
        self.cache = self.decoder.cache(2 * images + spare, janus.max_prompt_tokens + janus.image_tokens)
        if spare:
            self.decoder.capture(self.cache)
        self.scheduler = Scheduler(rows=2 * images, tokens=janus.image_tokens)
        self._sampler = Sampler(
            slots=2 * images,
            tokens=janus.image_tokens,
            vocabulary=janus.codebook_size,
            device=janus.device,
            compiled=compiled,
        )
        self._unconditional: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._deadlines: list[tuple[float, int, Request]] = []  # a heap; the number settles ties
        self._arrivals = count()
        self._step_seconds: float | None = None  # of late
        self._preview_credit = 0.0  # seconds that previews may take from others; below 0 what they took too much
        self._preview_seconds: float | None = None  # of one preview, lately
        self._batch = Batch.of([], self._sampler, janus.device)

    @property
    def wait_seconds(self) -> float:
        """After how long an image that came now would begin, if steps go on as fast as lately."""
        return self.scheduler.steps_to_wait * (self._step_seconds or 0.0)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self.scheduler.waiting and not self.scheduler.running

    @property
    def held_bytes(self) -> int:
        """What the model's weights, what is made of them and the cache take, in bytes."""
        return self.decoder.weight_bytes + self.image_tokenizer.table_bytes + self.cache.nbytes

    def load_weights(self, network: JanusForConditionalGeneration) -> None:
        """Draw with other weights of the same shapes from the next step on; nothing may be running.

        Raises:
            RuntimeError: images wait or are being drawn.
        """
        if not self.idle:
            raise RuntimeError("weights can be changed only while nothing is being drawn")
        self.decoder.load_weights(network)
        self.image_tokenizer.load_weights()
        self._unconditional.clear()

    def submit(self, job: Job) -> Request:
        """Put a job at the end of the queue."""
        request = Request(job)
        self.scheduler.submit(request)
        if job.deadline is not None:
            heappush(self._deadlines, (job.deadline, next(self._arrivals), request))
            if len(self._deadlines) > _DEADLINES_KEPT + 2 * self.scheduler.waiting_images:
                # those that ended long before their deadlines
                self._deadlines = [entry for entry in self._deadlines if entry[2].live]
                heapify(self._deadlines)
        return request

    def cancel(self, request: Request) -> None:
        """Forget a request; its slots are free from now on, and it has no more events."""
        if request.live:
            request.status = "cancelled"
            request.prefixes = None
            self.scheduler.drop(request)
            self._refresh()

    @torch.inference_mode()
    def step(self) -> list[tuple[Request, Event]]:
        """Draw the next code of every running image, and begin those that wait while there is room."""
        started = self._clock()
        events = self._drop_overdue()
        logits = self._decode()
        entering = self.scheduler.admit()
        if entering:
            logits = torch.cat([logits, self._prefill(entering)])
            events += [(slot.request, Started(slot.index)) for slot in entering]
            self._refresh()
            self._batch.rows.advance()  # to where the codes of this step will be fed
        if self._batch.running:
            self._sample(logits)
            events += self._previews()
            events += self._collect()
        self._note_time(self._clock() - started)
        return events

    def _drop_overdue(self) -> list[tuple[Request, Event]]:
        """Fail the requests whose deadline has passed, waiting or running."""
        overdue = []
        while self._deadlines and self._deadlines[0][0] <= self._clock():
            request = heappop(self._deadlines)[2]
            if request.live:
                request.status = "failed"
                request.prefixes = None
                self.scheduler.drop(request)
                overdue.append(request)
        if overdue:
            self._refresh()
        return [(request, Failed(None, "deadline", "the deadline passed")) for request in overdue]

    def _decode(self) -> Tensor:
        """Logits of the running rows' next codes: [R, V]."""
        batch = self._batch
        if not batch.running:
            return torch.zeros(0, self.janus.codebook_size, dtype=torch.float32, device=self.janus.device)
        return self.decoder.step(batch.draws.fed, batch.rows, self.cache)

    def _prefill(self, entering: Sequence[Slot]) -> Tensor:
        """Fill the rows of new slots; logits of their first codes, [rows, V]."""
        self._read({slot.request for slot in entering if slot.request.prefixes is None})
        logits = []
        for slot in entering:
            prefixes = slot.request.prefixes
            assert prefixes is not None
            slot.prompt_lengths = tuple(prefix.length for prefix in prefixes)
            for row, prefix in zip(slot.rows, prefixes, strict=True):
                self.cache.begin(row, prefix)
                logits.append(prefix.logits)
            if slot.index + 1 == slot.request.images:
                slot.request.prefixes = None
        self._sampler.begin(_places(entering))
        return torch.stack(logits)

    def _read(self, requests: Collection[Request]) -> None:
        """Give requests the keys and values of their prompts, and of what they are guided away from."""
        wanted = {request: self._prompts(request.job) for request in requests}
        known = {
            row: self._unconditional[row] for rows in wanted.values() for row in rows if row in self._unconditional
        }
        unread = sorted({row for rows in wanted.values() for row in rows} - set(known), key=len)
        while unread:
            # padded to the longest of them, which is the last
            take = next(n for n in range(len(unread), 0, -1) if n == 1 or n * len(unread[n - 1]) <= _PREFILL_TOKENS)
            part, unread = unread[:take], unread[take:]
            known.update(zip(part, self.decoder.prefill(part), strict=True))
        for request, rows in wanted.items():
            request.prefixes = tuple(known[row] for row in rows)
            if request.job.params.guided and request.job.negative_prompt is None:
                self._keep(rows[1], known[rows[1]])

    def _prompts(self, job: Job) -> tuple[tuple[int, ...], ...]:
        """The token rows of a job: its prompt and, when guided, what it is guided away from."""
        prompt = tuple(job.prompt)
        if not job.params.guided:
            return (prompt,)
        away = job.negative_prompt or unconditional_row(len(prompt), self.janus.ids)
        return prompt, tuple(away)

    def _keep(self, row: tuple[int, ...], prefix: Prefix) -> None:
        """Remember an unconditional row, of which there is one for each length; those used last stay."""
        self._unconditional[row] = prefix
        self._unconditional.move_to_end(row)
        if len(self._unconditional) > _UNCONDITIONAL_KEPT:
            self._unconditional.popitem(last=False)

    def _refresh(self) -> None:
        self._batch = Batch.of(self.scheduler.running, self._sampler, self.janus.device)

    def _sample(self, logits: Tensor) -> None:
        """One code for every running image; logits [R, V]."""
        batch = self._batch
        self._sampler.draw(logits, batch.draws)
        for slot in batch.running:
            slot.drawn += 1

    def _previews(self) -> list[tuple[Request, Event]]:
        """Pictures of what is drawn so far, after the rows that were asked for; left out where they would cost others."""
        grid = self.janus.grid
        due = [
            slot
            for slot in self._batch.previewed
            if slot.drawn % grid == 0 and slot.drawn // grid in slot.request.job.preview_rows
        ]
        if not due:
            return []
        alone = len({slot.request for slot in self._batch.running}.union(self.scheduler.waiting)) == 1
        if not alone:
            due = sorted(due, key=lambda slot: slot.previews)[: self._previews_allowed]
        if not due:
            return []
        started = self._clock()
        pictures = self.image_tokenizer.previews(
            self._sampler.codes(_places(due)), [slot.drawn // grid for slot in due]
        )
        seconds = self._clock() - started
        self._preview_seconds = seconds / len(due)
        if not alone:
            # a machine that stood still for a minute is not the previews' debt for the next twenty
            self._preview_credit = max(-4 * self._credit_limit, self._preview_credit - seconds)
        for slot in due:
            slot.previews += 1
        return [
            (slot.request, Preview(slot.index, slot.drawn // grid, Image.fromarray(picture)))
            for slot, picture in zip(due, pictures.numpy(), strict=True)
        ]

    @property
    def _previews_allowed(self) -> int:
        """How many previews this step may make others wait for: one, or as many as there is credit for."""
        if self._preview_credit < 0:
            return 0
        return max(1, int(self._preview_credit / self._preview_seconds)) if self._preview_seconds else 1

    @property
    def _credit_limit(self) -> float:
        """What the time of one image gives to previews, in seconds."""
        return _PREVIEW_SHARE * (self._step_seconds or 0.0) * self.janus.image_tokens

    def _collect(self) -> list[tuple[Request, Event]]:
        """Pictures of the images that are complete; their slots are free from now on."""
        complete = [slot for slot in self._batch.running if slot.drawn == self.janus.image_tokens]
        if not complete:
            return []
        places = _places(complete)
        codes, fit = self._sampler.codes(places), self._sampler.finite(places)
        pictures = self.image_tokenizer.images(codes).numpy()
        events: list[tuple[Request, Event]] = []
        for slot, row, picture, finite in zip(complete, codes.tolist(), pictures, fit, strict=True):
            self.scheduler.release(slot)
            request = slot.request
            request.ended += 1
            if request.ended == request.images:
                request.status = "done"
            if finite:
                events.append((request, Finished(slot.index, Image.fromarray(picture), tuple(row))))
            else:
                reason = "the model gave a logit that is not a finite number"
                events.append((request, Failed(slot.index, "not finite", reason)))
        self._refresh()
        return events

    def _note_time(self, seconds: float) -> None:
        """What a step took: for the estimate of waits, and for what previews may take."""
        self._step_seconds = seconds if self._step_seconds is None else 0.9 * self._step_seconds + 0.1 * seconds
        self._preview_credit = min(self._credit_limit, self._preview_credit + _PREVIEW_SHARE * seconds)
